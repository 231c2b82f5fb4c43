package main_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/weir-run/weir/test/programtest"
)

// dial opens a raw connection to the watchdog, with a deadline on everything.
func (w *instance) dial() *net.TCPConn {
	w.t.Helper()
	conn, err := net.DialTimeout("tcp", "127.0.0.1:"+strconv.Itoa(w.port), programtest.Patience)
	if err != nil {
		w.t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(programtest.Patience))
	w.t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

// raw sends bytes on a connection of their own, half-closes it, and returns
// everything that comes back until the watchdog closes. A reset is an end.
func (w *instance) raw(request string) string {
	w.t.Helper()
	conn := w.dial()
	defer conn.Close()
	go func() {
		io.WriteString(conn, request)
	}()
	all, err := io.ReadAll(conn)
	if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Fatalf("no end of the answer to %.60q: %q", request, all)
	}
	return string(all)
}

// halfClosed is raw that closes its side after the request.
func (w *instance) halfClosed(request string) string {
	w.t.Helper()
	conn := w.dial()
	defer conn.Close()
	go func() {
		io.WriteString(conn, request)
		conn.CloseWrite()
	}()
	all, _ := io.ReadAll(conn)
	return string(all)
}

// parse reads one response out of raw bytes.
func (w *instance) parse(raw string) answer {
	w.t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(raw)), nil)
	if err != nil {
		w.t.Fatalf("answer %.200q: %v", raw, err)
	}
	body, err := io.ReadAll(resp.Body)
	return answer{resp, string(body), err}
}

// readFirst sends a request and reads until the answer's first line is there,
// while the handler still works on the rest.
func (w *instance) readFirst(path, line string, headers ...string) (rest func() string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), programtest.Patience)
	w.t.Cleanup(cancel)
	req, _ := http.NewRequestWithContext(ctx, "GET", w.url+path, nil)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := client.Do(req)
	if err != nil {
		w.t.Fatalf("%q does not come before the end: %v", line, err)
	}
	w.t.Cleanup(func() { resp.Body.Close() })
	in := bufio.NewReader(resp.Body)
	got, err := in.ReadString('\n')
	if err != nil || strings.TrimSpace(got) != line {
		w.t.Fatalf("first line %q, %v; want %q", got, err, line)
	}
	return func() string {
		all, err := io.ReadAll(in)
		if err != nil {
			w.t.Fatal(err)
		}
		return strings.TrimSpace(string(all))
	}
}

// parseInterim sends a head, then the body hello once a 100 comes, and returns
// everything that came.
func (w *instance) parseInterim(head string) string {
	w.t.Helper()
	conn := w.dial()
	defer conn.Close()
	io.WriteString(conn, head)
	var all strings.Builder
	buf := make([]byte, 4096)
	for sent := false; ; {
		n, err := conn.Read(buf)
		all.Write(buf[:n])
		if !sent && strings.HasPrefix(all.String(), "HTTP/1.1 100 ") {
			sent = true
			io.WriteString(conn, "hello")
		}
		if err == io.EOF {
			return all.String()
		}
		if err != nil {
			if os.IsTimeout(err) {
				w.t.Fatalf("no end: %q", all.String())
			}
			return all.String()
		}
	}
}
