package gateway

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// rawClient calls one URL on one connection, as cheaply as may be, so that what
// is measured is what is between it and the function.
type rawClient struct {
	conn    net.Conn
	r       *bufio.Reader
	request []byte
}

func newRawClient(b *testing.B, host, path string) *rawClient {
	conn, err := net.Dial("tcp", host)
	if err != nil {
		b.Fatal(err)
	}
	return &rawClient{conn, bufio.NewReader(conn), fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: x\r\nUser-Agent: bench\r\nAccept: */*\r\nContent-Length: 5\r\n\r\nhello", path)}
}

func (c *rawClient) call(b *testing.B) {
	if _, err := c.conn.Write(c.request); err != nil {
		b.Error(err)
		return
	}
	line, err := c.r.ReadSlice('\n')
	if err != nil || !strings.Contains(string(line), " 200 ") {
		b.Errorf("%q, %v", line, err)
		return
	}
	length := 0
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			b.Error(err)
			return
		}
		if len(line) <= 2 {
			break
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			length = int(value[0] - '0')
		}
	}
	if _, err := c.r.Discard(length); err != nil {
		b.Error(err)
	}
}

// processorTime is what this process has used.
func processorTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkWarm is one call of a function that is awake, through the gateway,
// through a bare ReverseProxy, and through one that asks its provider for each
// call, as OpenFaaS's gateway does (here another server of this process, over
// HTTP with JSON).
func BenchmarkWarm(b *testing.B) {
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	})
	backend := httptest.NewServer(echo)
	defer backend.Close()
	target, _ := url.Parse(backend.URL)
	bare := func() *httputil.ReverseProxy {
		return &httputil.ReverseProxy{
			Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.SetXForwarded() },
			Transport: &http.Transport{MaxIdleConnsPerHost: 1000, DisableCompression: true},
		}
	}

	f := fleet.New(fleet.Config{})
	g, err := New(Config{Fleet: f, Provider: &provider{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	f.Synced()
	fn := describe("f", 1, 0)
	fn.Pods = []function.Pod{{Name: "p", UID: "p", Addr: target.Host, Ready: true}}
	e := put(f, fn, plain)

	asked := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"name":"f","replicas":1,"availableReplicas":1}`)
	}))
	defer asked.Close()
	ask := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	asking := bare()

	for _, c := range []struct {
		name    string
		handler http.Handler
	}{
		{"gateway", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.serve(w, r, e, r.RequestURI) })},
		{"ReverseProxy", bare()},
		{"ReverseProxy-asking", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			res, err := ask.Get(asked.URL)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
			asking.ServeHTTP(w, r)
		})},
		{"function-itself", echo},
	} {
		b.Run(c.name, func(b *testing.B) {
			front := httptest.NewServer(c.handler)
			defer front.Close()
			host := strings.TrimPrefix(front.URL, "http://")
			b.ReportAllocs()
			b.SetParallelism(4)
			before := processorTime(b)
			b.RunParallel(func(pb *testing.PB) {
				client := newRawClient(b, host, "/hello")
				defer client.conn.Close()
				for pb.Next() {
					client.call(b)
				}
			})
			// Of a machine that is busy otherwise this says more than the time
			// on the wall. The client's and the function's part are in it.
			b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}
