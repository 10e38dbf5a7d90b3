// gorilla/websocket, as client or server; `run` says what it is told and what it prints.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// With a buffer as small as this, the first part of a long message leaves before its end is known.
const writeBuffer = 64

func main() {
	if os.Args[1] == "client" {
		dialer := websocket.Dialer{WriteBufferSize: writeBuffer}
		socket, _, err := dialer.Dial(os.Args[2], nil)
		if err != nil {
			fail(err)
		}
		converse(socket, false)
		return
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fail(err)
	}
	fmt.Printf("listening ws://%v\n", listener.Addr())
	upgrader := websocket.Upgrader{WriteBufferSize: writeBuffer}
	fail(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if socket, err := upgrader.Upgrade(w, r, nil); err == nil {
			converse(socket, true)
		}
	})))
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func converse(socket *websocket.Conn, echoes bool) {
	defer socket.Close()
	fmt.Println("open")
	// gorilla takes one writer of messages at a time.
	var writing sync.Mutex
	send := func(text string) {
		writing.Lock()
		defer writing.Unlock()
		socket.WriteMessage(websocket.TextMessage, []byte(text))
	}
	go obey(socket, send)
	for {
		_, message, err := socket.ReadMessage()
		var closed *websocket.CloseError
		if errors.As(err, &closed) {
			fmt.Println("closed", closed.Code, closed.Text)
			return
		} else if err != nil {
			fmt.Println("failed", err)
			return
		}
		fmt.Printf("message %s\n", message)
		if echoes {
			send(string(message))
		}
	}
}

func obey(socket *websocket.Conn, send func(string)) {
	soon := func() time.Time { return time.Now().Add(10 * time.Second) }
	for input := bufio.NewScanner(os.Stdin); input.Scan(); {
		words := strings.Split(input.Text(), " ")
		switch words[0] {
		case "send":
			send(strings.Join(words[1:], " "))
		case "pings":
			count, _ := strconv.Atoi(words[1])
			for ; count > 0; count-- {
				socket.WriteControl(websocket.PingMessage, nil, soon())
			}
		case "begin":
			if message, err := socket.NextWriter(websocket.TextMessage); err == nil {
				message.Write([]byte(strings.Repeat("half a message ", writeBuffer)[:2*writeBuffer]))
			}
		case "close":
			code, _ := strconv.Atoi(words[1])
			frame := websocket.FormatCloseMessage(code, words[2])
			socket.WriteControl(websocket.CloseMessage, frame, soon())
		}
	}
}
