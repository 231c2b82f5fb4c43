package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// While it drains, each answer ends its connection: one that were kept would be
// closed while its client sends on it. An upgraded one goes on.
func TestDrainEndsConnections(t *testing.T) {
	w := newWorld(t, nil)
	w.started(w.function("f", 1, plainPod(t, "f-1", handler())), 1)
	send := func(request string) (*http.Response, *bufio.Reader) {
		t.Helper()
		conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		fmt.Fprint(conn, request)
		in := bufio.NewReader(conn)
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		return res, in
	}
	const get = "GET /f/request HTTP/1.1\r\nHost: x\r\n\r\n"
	if res, _ := send(get); res.Close {
		t.Error("before: the connection is closed after an answer")
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for end := time.Now().Add(patience); w.g.underWay() != 1 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		w.g.Drain()
	}()
	if res, _ := send("GET /f/sleep?for=500ms HTTP/1.1\r\nHost: x\r\n\r\n"); !res.Close {
		t.Errorf("a call that was under way: %s, and its connection is kept", res.Status)
	}
	<-drained
	res, in := send(get)
	if _, err := io.Copy(io.Discard, res.Body); err != nil || !res.Close {
		t.Errorf("a call that came later: close %v, %v", res.Close, err)
	}
	if _, err := in.ReadByte(); err != io.EOF {
		t.Errorf("after it: %v, want the connection's end", err)
	}
	if res, _ := send("GET /f/upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"); res.StatusCode != 101 || res.Close ||
		len(res.Header["Connection"]) != 1 {
		t.Errorf("an upgrade: %d, %v", res.StatusCode, res.Header)
	}
}
