// Command raw is a handler for http mode that does not speak HTTP well: what
// it answers is named by the path of the request. LISTEN is host:port; RECORD
// is a file that gets the bytes of every request, as they came.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

var answers = map[string]string{
	"/garbage":     "\x00\x01\x02 this is not HTTP\r\n\r\n",
	"/half":        "HTTP/1.1 20",
	"/nothing":     "",
	"/halfhead":    "HTTP/1.1 200 OK\r\nContent-Le",
	"/twolengths":  "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\nhello",
	"/badlength":   "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhello",
	"/both":        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"/badstatus":   "HTTP/1.1 xyz OK\r\nContent-Length: 0\r\n\r\n",
	"/badversion":  "HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n",
	"/badheader":   "HTTP/1.1 200 OK\r\nno colon here\r\nContent-Length: 0\r\n\r\n",
	"/badencoding": "HTTP/1.1 200 OK\r\nTransfer-Encoding: rot13\r\n\r\nuryyb",
	// The answer has begun when these turn out to be wrong.
	"/badchunk":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
	"/shortchunk": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
	"/short":      "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
	// These are right.
	"/plain":   "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
	"/old":     "HTTP/1.0 200 OK\r\n\r\nhello",
	"/toclose": "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
}

func main() {
	l, err := net.Listen("tcp", os.Getenv("LISTEN"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(9)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go answer(conn)
	}
}

func answer(conn net.Conn) {
	defer conn.Close()
	head, err := readHead(conn)
	record(head)
	if err != nil {
		return
	}
	fields := strings.Fields(head)
	if len(fields) < 2 {
		return
	}
	path := fields[1]
	if path == "/endless" {
		endless(conn)
		return
	}
	if path == "/late" { // takes the request and closes a moment later
		time.Sleep(50 * time.Millisecond)
		return
	}
	text, ok := answers[path]
	if !ok {
		text = answers["/plain"]
	}
	io.WriteString(conn, text)
}

// readHead reads up to the empty line and no further.
func readHead(conn net.Conn) (string, error) {
	var head bytes.Buffer
	in := bufio.NewReader(conn)
	for {
		line, err := in.ReadString('\n')
		head.WriteString(line)
		if err != nil {
			return head.String(), err
		}
		if line == "\r\n" {
			rest, _ := in.Peek(in.Buffered())
			head.Write(rest)
			return head.String(), nil
		}
	}
}

// endless sends a header that never ends, up to 64 MiB.
func endless(conn net.Conn) {
	io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
	line := "X-Fill: " + strings.Repeat("y", 8<<10) + "\r\n"
	for range 8 << 10 {
		if _, err := io.WriteString(conn, line); err != nil {
			return
		}
	}
}

func record(text string) {
	name := os.Getenv("RECORD")
	if name == "" || text == "" {
		return
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		io.WriteString(f, text)
		f.Close()
	}
}
