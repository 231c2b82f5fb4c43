package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// switcher accepts any upgrade, sends a greeting with the head, and then
// echoes until the client's side ends, and says so.
func switcher(c net.Conn, br *bufio.Reader) {
	r, err := http.ReadRequest(br)
	if err != nil || !strings.EqualFold(r.Header.Get("Connection"), "upgrade") {
		io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
		return
	}
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nX-Key: k\r\n\r\nhello.", r.Header.Get("Upgrade"))
	io.Copy(c, br)
	io.WriteString(c, ".bye")
}

func TestUpgrade(t *testing.T) {
	checkLeaks(t)
	f := newFront(t, mustNew(t, rawUpstream(t, switcher)))
	f.exec = patience
	for _, protocol := range []string{"websocket", "WebSocket", "WEBSOCKET", "chat/2"} {
		c := f.dial(t)
		// The first bytes come with the head, before the answer.
		fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: %s\r\n\r\nearly,", protocol)
		br := bufio.NewReader(c)
		res, err := http.ReadResponse(br, nil)
		if err != nil || res.StatusCode != 101 || res.Header.Get("Upgrade") != protocol || res.Header.Get("X-Key") != "k" {
			t.Fatalf("%s: %v %v", protocol, res, err)
		}
		io.WriteString(c, "late")
		// Half closed: the handler's last words still arrive.
		c.(*net.TCPConn).CloseWrite()
		if all, err := io.ReadAll(br); err != nil || string(all) != "hello.early,late.bye" {
			t.Errorf("%s: %q %v", protocol, all, err)
		}
		if err := f.outcome(t); err != nil {
			t.Error(err)
		}
	}
}

func TestUpgradeRefused(t *testing.T) {
	checkLeaks(t)
	for answer, want := range map[string]int{
		"HTTP/1.1 426 No\r\nContent-Length: 0\r\n\r\n":                                           426,
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n":                                           200,
		"HTTP/1.1 101 Other\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n": 502,
		"HTTP/1.1 101 Nothing\r\n\r\n":                                                           502,
	} {
		f := newFront(t, mustNew(t, rawUpstream(t, once(answer))))
		res, _, err := sendRaw(t, f, "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
		if err != nil || res.StatusCode != want {
			t.Errorf("%q: %v %v", answer, res, err)
		}
	}
	f := newFront(t, mustNew(t, rawUpstream(t, once("HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"))))
	if res, _, err := get(t, f, "/"); err != nil || res.StatusCode != 502 {
		t.Errorf("unasked: %v %v", res, err)
	}
}

func TestCloseEndsUpgrades(t *testing.T) {
	checkLeaks(t)
	f := newFront(t, mustNew(t, rawUpstream(t, switcher)))
	c := f.dial(t)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	br := bufio.NewReader(c)
	if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 101 {
		t.Fatal(res, err)
	}
	f.p.Close()
	io.Copy(io.Discard, br)
	if err := f.outcome(t); err != nil {
		t.Error(err)
	}
}

// A client that vanishes ends its upgraded connection on both sides.
func TestUpgradeClientGone(t *testing.T) {
	checkLeaks(t)
	ended := make(chan struct{})
	f := newFront(t, mustNew(t, rawUpstream(t, func(c net.Conn, br *bufio.Reader) {
		switcher(c, br)
		ended <- struct{}{}
	})))
	c := f.dial(t)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != 101 {
		t.Fatal(res, err)
	}
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
	<-ended
	if err := f.outcome(t); err != nil {
		t.Error(err)
	}
}
