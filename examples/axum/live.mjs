// Drives the page of `axum_live` in Chromium: node live.mjs SERVER BROWSER FOLDER
//
// SERVER and BROWSER are programs. FOLDER has playwright-core in its node_modules, and gets the
// screenshots. `.ci/live` finds or builds all three. Exits with 1 if the page shows something wrong.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { createInterface } from "node:readline";

const [program, executablePath, folder] = process.argv.slice(2);
const { chromium } = createRequire(resolve(folder, "live.mjs"))("playwright-core");

const env = { RUST_LOG: "off", ...process.env };
const server = spawn(program, ["127.0.0.1:0"], { env, stdio: ["ignore", "pipe", "inherit"] });
process.on("exit", () => server.kill());
let url;
for await (const line of createInterface({ input: server.stdout })) {
  url = line.match(/^listening on (\S+)/)?.[1];
  if (url) break;
}
assert(url, `${program} ended before it listened`);

const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"];
const browser = await chromium.launch({ executablePath, args });
try {
  const page = await browser.newPage({ viewport: { width: 1120, height: 600 }, deviceScaleFactor: 2 });
  const problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  await page.goto(url);
  const living = (label) => page.locator(`#living tr[data-label=${label}]`);
  const verdict = (label) => page.locator(`#verdicts tr[data-label=${label}]`).last(); // the first that came

  for (const kind of ["healthy", "silent", "slow"]) {
    await page.click(`button[value=${kind}]`);
    await living(kind).waitFor();
  }
  // Later come two more, which are in trouble when the picture is taken.
  await page.waitForFunction(() => document.querySelector("#living tr[data-label=silent]")?.dataset.age > 1.5);
  await page.click("button[value=silent]");
  await page.click("button[value=slow]");
  await verdict("silent").waitFor({ timeout: 15_000 });
  await verdict("slow").waitFor({ timeout: 15_000 });
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    await page.screenshot({ path: `${folder}/${colorScheme}.png` });
  }

  const end = verdict("silent");
  const age = async (row) => Number(await row.getAttribute("data-age"));
  assert.match(await end.innerText(), /pong_timeout\s+ping unanswered for 3\S* s \(limit 3 s\)/);
  assert.match(await verdict("slow").innerText(), /slow_receive\s+a message arrived too slowly \(limit 240 bytes/);
  for (const kind of ["healthy", "page"]) {
    assert.equal(await living(kind).count(), 1, `one ${kind} connection lives`);
    assert.equal(await verdict(kind).count(), 0, `no verdict on a ${kind} connection`);
    assert.match(await living(kind).innerText(), /\d ms/, `the round trip of a ${kind} connection`);
    assert((await age(living(kind))) > (await age(end)), `a ${kind} connection outlives the silent one`);
  }
  const ended = `#living tr[data-id="${await end.getAttribute("data-id")}"]`;
  await page.locator(ended).waitFor({ state: "detached" });
  assert.deepEqual(problems, []);
  console.log(`the silent and the slow client were disconnected, the others live: ${folder}/light.png, dark.png`);
} finally {
  await browser.close();
  server.kill();
}
