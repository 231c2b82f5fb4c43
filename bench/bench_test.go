package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestParseAnswer(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\n"
	for _, c := range []struct {
		name, bytes string
		want        answer
		err         error
	}{
		{"length", head + "content-length: 3\r\n\r\nabc", answer{200, 41, false}, nil},
		{"more than one", head + "Content-Length: 0\r\n\r\nHTTP/1.1 2", answer{200, 38, false}, nil},
		{"no body", "HTTP/1.1 204 No Content\r\n\r\n", answer{204, 27, false}, nil},
		{"close", head + "Connection: close\r\nContent-Length: 0\r\n\r\n", answer{200, 57, true}, nil},
		{"chunks", head + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", answer{200, 60, false}, nil},
		{"no line yet", "HTTP/1.1 20", answer{}, errShort},
		{"no head yet", head + "A: b\r\n", answer{}, errShort},
		{"body to come", head + "Content-Length: 3\r\n\r\nab", answer{}, errShort},
		{"chunk to come", head + "Transfer-Encoding: chunked\r\n\r\n3\r\nab", answer{}, errShort},
		{"last chunk to come", head + "Transfer-Encoding: chunked\r\n\r\n0\r\n", answer{}, errShort},
		{"not HTTP", "SSH-2.0-OpenSSH_9.2\r\n\r\n", answer{}, errAnswer},
		{"not HTTP, but a status", "FOOO/1.1 200 OK\r\n\r\n", answer{}, errAnswer},
		{"too long", head + "Content-Length: 65537\r\n\r\n", answer{}, errAnswer},
		{"chunk too long", head + "Transfer-Encoding: chunked\r\n\r\n10001\r\n", answer{}, errAnswer},
		{"no number", head + "Content-Length: x\r\n\r\n", answer{}, errAnswer},
		{"negative", head + "Content-Length: -1\r\n\r\n", answer{}, errAnswer},
		{"bad chunk", head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", answer{}, errAnswer},
		{"chunk without end", head + "Transfer-Encoding: chunked\r\n\r\n1\r\nabc", answer{}, errAnswer},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseAnswer([]byte(c.bytes))
			if !errors.Is(err, c.err) || err == nil && got != c.want {
				t.Errorf("got %+v, %v; want %+v, %v", got, err, c.want, c.err)
			}
		})
	}
}

// FuzzParseAnswer holds the parser against net/http's: what it takes for a
// whole answer is one, of that status.
func FuzzParseAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAnswer(b)
		if err != nil {
			return
		}
		if a.length > len(b) || a.length <= 0 {
			t.Fatalf("length %d of %d bytes", a.length, len(b))
		}
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b[:a.length])), nil)
		if err != nil {
			return // net/http is the stricter of the two
		}
		if resp.StatusCode != a.status {
			t.Errorf("status %d, net/http says %d", a.status, resp.StatusCode)
		}
	})
}

// TestLoad drives a real server that answers, refuses, streams in chunks and
// closes its connection, and counts what the generator says it saw.
func TestLoad(t *testing.T) {
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if string(body) != "a body" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		switch asked.Add(1) % 4 {
		case 0:
			w.WriteHeader(http.StatusTooManyRequests)
		case 1:
			w.Header().Set("Connection", "close")
		case 2:
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, "in chunks")
		}
	}))
	defer server.Close()
	before := descriptors(t)
	got, err := load{
		addr:    strings.TrimPrefix(server.URL, "http://"),
		conns:   4,
		request: request("POST", "/", "a body"),
		time:    200 * time.Millisecond,
		pause:   time.Millisecond,
		pid:     os.Getpid(),
	}.run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if got.failed != 0 || got.refused == 0 || got.good < 2*got.refused {
		t.Errorf("good %d, refused %d, failed %d of %d", got.good, got.refused, got.failed, asked.Load())
	}
	// All that were asked are counted, but for those still under way at the
	// end of warm and of time.
	if seen := int64(got.good + got.refused); seen > asked.Load() || seen < asked.Load()-8 {
		t.Errorf("%d counted of %d", seen, asked.Load())
	}
	if len(got.refusals) != got.refused || !slices.IsSorted(got.refusals) || got.refusalP99() <= 0 {
		t.Errorf("%d times of %d refusals, p99 %g ms", len(got.refusals), got.refused, got.refusalP99())
	}
	if len(got.latencies) != got.good || got.cpu <= 0 || got.elapsed < 200*time.Millisecond {
		t.Errorf("%d latencies of %d, %v CPU in %v", len(got.latencies), got.good, got.cpu, got.elapsed)
	}
	server.CloseClientConnections()
	for deadline := time.Now().Add(10 * time.Second); descriptors(t) > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors, %d before", descriptors(t), before)
		}
	}
}

// TestLoadReopens: a server that closes after its answer without saying so
// costs one failure, not the run.
func TestLoadReopens(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		panic(http.ErrAbortHandler)
	}))
	defer server.Close()
	got, err := load{
		addr: strings.TrimPrefix(server.URL, "http://"), conns: 2, request: request("GET", "/", ""), time: 50 * time.Millisecond,
	}.run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if got.failed == 0 || got.good != 0 {
		t.Errorf("good %d, failed %d", got.good, got.failed)
	}
}

func TestShareOfTimes(t *testing.T) {
	var r result
	if r.p50() != 0 || r.refusalP99() != 0 {
		t.Errorf("p50 %g, p99 %g of none", r.p50(), r.refusalP99())
	}
	for i := range 1001 {
		r.latencies = append(r.latencies, time.Duration(i)*time.Microsecond)
		r.refusals = append(r.refusals, time.Duration(i)*time.Millisecond)
	}
	if r.p50() != 500 || r.refusalP99() != 990 {
		t.Errorf("p50 %g, p99 %g; want 500, 990", r.p50(), r.refusalP99())
	}
}

func TestLoadFails(t *testing.T) {
	addr, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (load{addr: addr, conns: 1, time: time.Second}).run(context.Background()); err == nil {
		t.Error("nobody listens, and the load does not say so")
	}
}

func TestReport(t *testing.T) {
	r := &report{machine: "a machine"}
	r.begin("a case")
	r.atLeast("ratio", ratios([]float64{2, 30, 6}, []float64{1, 10, 3}), 2)
	if r.missed {
		t.Error("a median of 2 misses a bound of 2")
	}
	r.atMost("ratio", []float64{1, 2, 3}, 1.5)
	if !r.missed {
		t.Error("a median of 2 keeps a bound of 1.5")
	}
	var out strings.Builder
	r.print(&out)
	const want = `a machine

| case   | what  | bound  | measured            |            |
| ------ | ----- | ------ | ------------------- | ---------- |
| a case | ratio | ≥ 2.00 | 2.00 (2.00 to 3.00) | kept       |
| a case | ratio | ≤ 1.50 | 2.00 (2.00 to 3.00) | **missed** |
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestTail(t *testing.T) {
	var tail tail
	for range 1000 {
		_, _ = tail.Write([]byte("0123456789"))
	}
	if got := tail.String(); len(got) != maxTail || !strings.HasSuffix(got, "789") {
		t.Errorf("%d bytes that end in %q", len(got), got[max(0, len(got)-5):])
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}
