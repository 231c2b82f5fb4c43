package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-run/weir/contract"
)

// TestOpenLoad drives a real server that answers, refuses, fails, hangs up,
// says nothing and takes its time, and finds each request in one count.
func TestOpenLoad(t *testing.T) {
	var asked [6]atomic.Int64
	var turn atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		which := turn.Add(1) % 6
		asked[which].Add(1)
		switch which {
		case 0:
			_, _ = io.WriteString(w, "done")
		case 1:
			w.Header().Set(contract.HeaderReject, contract.RejectQueue)
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			w.WriteHeader(http.StatusBadGateway)
		case 3:
			panic(http.ErrAbortHandler)
		case 4:
			<-r.Context().Done()
		case 5:
			select {
			case <-time.After(100 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
	}))
	defer server.Close()
	before := descriptors(t)
	got, err := openLoad{
		addr: strings.TrimPrefix(server.URL, "http://"), request: request("GET", "/", ""),
		rate: 300, time: time.Second, good: 50 * time.Millisecond, leave: 3 * time.Second, conns: 1000,
	}.run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if sum := got.good + got.late + got.left + got.failed + got.unsent + got.allRefused(); sum != got.due {
		t.Errorf("%d counted of %d due: %+v", sum, got.due, got)
	}
	if got.due < 200 || got.due > 400 {
		t.Errorf("%d due in a second at a rate of 300", got.due)
	}
	for _, c := range []struct {
		what string
		got  int
		want int64
	}{
		{"refused", got.refused[contract.RejectQueue], asked[1].Load()},
		{"failed", got.failed, asked[2].Load() + asked[3].Load()},
		{"left", got.left, asked[4].Load()},
		{"good and late", got.good + got.late, asked[0].Load() + asked[5].Load()},
	} {
		if int64(c.got) != c.want {
			t.Errorf("%s: %d counted, %d served", c.what, c.got, c.want)
		}
	}
	if int64(got.late) < asked[5].Load() || len(got.goods) != got.good ||
		len(got.admitted) != got.good+got.late+got.left || len(got.refusals) != got.allRefused() || len(got.lags) != got.due {
		t.Errorf("%d good, %d late, %d left; %d, %d, %d and %d latencies",
			got.good, got.late, got.left, len(got.goods), len(got.admitted), len(got.refusals), len(got.lags))
	}
	server.CloseClientConnections()
	for deadline := time.Now().Add(10 * time.Second); descriptors(t) > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors, %d before", descriptors(t), before)
		}
	}
}

// TestOpenLoadIsBounded: what is due while every connection waits is not sent,
// and not forgotten.
func TestOpenLoadIsBounded(t *testing.T) {
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		<-r.Context().Done()
	}))
	defer server.Close()
	got, err := openLoad{
		addr: strings.TrimPrefix(server.URL, "http://"), request: request("GET", "/", ""),
		rate: 500, time: 200 * time.Millisecond, good: time.Second, leave: time.Second, conns: 3,
	}.run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if got.left != 3 || got.unsent != got.due-3 || asked.Load() != 3 {
		t.Errorf("%d left and %d unsent of %d, %d asked", got.left, got.unsent, got.due, asked.Load())
	}
}

// TestOpenLoadIdleClosed: a server that closes a kept connection does no harm
// to a request that has its answer.
func TestOpenLoadIdleClosed(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		_ = conn.Close()
	}))
	defer server.Close()
	got, err := openLoad{
		addr: strings.TrimPrefix(server.URL, "http://"), request: request("GET", "/", ""),
		rate: 100, time: 500 * time.Millisecond, good: 10 * time.Second, leave: 10 * time.Second, conns: 100,
	}.run(context.Background())
	// One that was sent in the moment of the close may fail.
	if err != nil || got.good == 0 || got.good+got.failed != got.due {
		t.Errorf("%d good and %d failed of %d: %v", got.good, got.failed, got.due, err)
	}
}

// TestOpenLoadWithoutServer: a server that is gone fails requests, not the run.
func TestOpenLoadWithoutServer(t *testing.T) {
	// A port that is taken and not listened on, so that nobody else does.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port)
	got, err := openLoad{addr: addr, request: request("GET", "/", ""), rate: 500, time: 100 * time.Millisecond, leave: 30 * time.Second, conns: 1000}.run(context.Background())
	if err != nil || got.due == 0 || got.failed != got.due {
		t.Errorf("%d failed of %d: %v", got.failed, got.due, err)
	}
}

func TestRejectOf(t *testing.T) {
	for answer, want := range map[string]string{
		"HTTP/1.1 503 X\r\nX-Watchdog-Reject: memory\r\nA: b\r\n\r\n": "memory",
		"HTTP/1.1 503 X\r\nA: b\r\nX-Watchdog-Reject: queue\r\n\r\n":  "queue",
		"HTTP/1.1 200 OK\r\n\r\n\r\nX-Watchdog-Reject: queue\r\n":     "",
		"HTTP/1.1 200 OK\r\n\r\n":                                     "",
	} {
		if got := rejectOf([]byte(answer)); got != want {
			t.Errorf("%q: %q, want %q", answer, got, want)
		}
	}
}

// TestSweepFile: a row has the columns that the head names, and the comment
// above it is one to the reader of the plots.
func TestSweepFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), sweepFile)
	x := openResult{due: 10, good: 5, refused: map[string]int{"memory": 2, "pids": 3}, elapsed: time.Second}
	if err := writeSweep(path, "a machine", [][][]string{{sweepRow("a system, with a comma", 1, x, 8, 1<<20, 0)}}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.Comment = '#'
	rows, err := r.ReadAll()
	if err != nil || len(rows) != 2 {
		t.Fatalf("%v, %v", rows, err)
	}
	for i, name := range rows[0] {
		want, checked := map[string]string{"system": "a system, with a comma", "good": "5.0", "refused memory": "2.0", "refused otherwise": "3.0", "limit": "8", "memory": "1"}[name]
		if checked && rows[1][i] != want {
			t.Errorf("%s: %s, want %s", name, rows[1][i], want)
		}
	}
}
