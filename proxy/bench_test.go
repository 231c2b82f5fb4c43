package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"
)

// BenchmarkProxy compares this proxy, by Serve ("lean") and by a Call of one
// Try, with the standard library's, and with no proxy, at 1 and at 32 connections. One upstream and one load client serve
// all; what they cost is in the row "direct".
func BenchmarkProxy(b *testing.B) {
	up := rawUpstream(b, answerer)
	target, err := url.Parse(up)
	if err != nil {
		b.Fatal(err)
	}
	ours := mustNew(b, up)
	defer ours.Close()
	transport := &http.Transport{MaxIdleConnsPerHost: 100, DisableCompression: true}
	defer transport.CloseIdleConnections()
	handlers := map[string]http.Handler{
		"lean": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			deadline := time.Now().Add(patience)
			if err := ours.Serve(w, r, deadline, deadline); err != nil {
				panic(http.ErrAbortHandler)
			}
		}),
		"Call": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c := NewCall(w, r)
			defer c.Close()
			c.Header = http.Header{"X-Forwarded-For": {r.RemoteAddr}}
			c.Judge, c.Watchdog = judge, true
			if err := c.Try(ours); err != nil {
				panic(http.ErrAbortHandler)
			}
		}),
		"ReverseProxy": &httputil.ReverseProxy{
			Transport: transport,
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(target)
				r.Out.Host = r.In.Host
			},
		},
	}
	for _, conns := range []int{1, 32} {
		b.Run(fmt.Sprintf("direct/%d", conns), func(b *testing.B) { load(b, target.Host, conns) })
		for _, name := range []string{"ReverseProxy", "lean", "Call"} {
			b.Run(fmt.Sprintf("%s/%d", name, conns), func(b *testing.B) {
				s := httptest.NewServer(handlers[name])
				defer s.Close()
				load(b, s.Listener.Addr().String(), conns)
			})
		}
	}
}

// BenchmarkPost sends bodies of some lengths through ReverseProxy, Serve and a
// Call, one after another.
func BenchmarkPost(b *testing.B) {
	for _, size := range []int{5, 1 << 10, 16 << 10, 64 << 10, 1 << 20} {
		up := rawUpstream(b, admitting(okay, true))
		ours, target := mustNew(b, up), mustParse(b, up)
		transport := &http.Transport{MaxIdleConnsPerHost: 100, DisableCompression: true}
		for name, h := range map[string]http.HandlerFunc{
			"ReverseProxy": (&httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}).ServeHTTP,
			"Serve": func(w http.ResponseWriter, r *http.Request) {
				if err := ours.Serve(w, r, time.Time{}, time.Time{}); err != nil {
					b.Error(err)
				}
			},
			"Call": func(w http.ResponseWriter, r *http.Request) {
				c := NewCall(w, r)
				defer c.Close()
				c.Watchdog = true
				if err := c.Try(ours); err != nil {
					b.Error(err)
				}
			},
		} {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				s := httptest.NewServer(h)
				defer s.Close()
				body := make([]byte, size)
				b.ReportAllocs()
				for b.Loop() {
					res, err := s.Client().Post(s.URL, "", bytes.NewReader(body))
					if err != nil {
						b.Fatal(err)
					}
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
			})
		}
		ours.Close()
		transport.CloseIdleConnections()
	}
}

func mustParse(b *testing.B, raw string) *url.URL {
	u, err := url.Parse(raw)
	if err != nil {
		b.Fatal(err)
	}
	return u
}

// answerer serves small requests without bodies as cheaply as it can be done.
func answerer(c net.Conn, _ *bufio.Reader) {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: Sat, 21 Nov 2026 01:00:00 GMT\r\nContent-Length: 12\r\n\r\nhello world\n")
	buf := make([]byte, 8<<10)
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// load sends b.N requests over conns connections, one after the other on each.
func load(b *testing.B, addr string, conns int) {
	b.ReportAllocs()
	done := make(chan error, conns)
	work := make(chan struct{}, conns)
	request := []byte("GET /x?y=1 HTTP/1.1\r\nHost: bench\r\nUser-Agent: load\r\nAccept: */*\r\n\r\n")
	b.ResetTimer()
	for range conns {
		go func() { done <- drive(addr, request, work) }()
	}
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	for range conns {
		if err := <-done; err != nil {
			b.Error(err)
		}
	}
}

func drive(addr string, request []byte, work <-chan struct{}) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, 4<<10)
	for range work {
		if _, err := c.Write(request); err != nil {
			return err
		}
		// The answers fit one segment and end alike.
		for n := 0; n < 12 || string(buf[n-12:n]) != "hello world\n"; {
			m, err := c.Read(buf[n:])
			if err != nil {
				return fmt.Errorf("%q: %w", buf[:n], err)
			}
			n += m
		}
	}
	return nil
}

// BenchmarkBody moves long bodies both ways; 1 GiB with
// -bench Body -benchtime 1x.
func BenchmarkBody(b *testing.B) {
	const size = 1 << 30
	f := upstream(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Length", fmt.Sprint(size))
		io.CopyN(w, zeros{}, size)
	}))
	b.SetBytes(2 * size)
	for b.Loop() {
		r, _ := http.NewRequest("POST", f.URL, io.LimitReader(zeros{}, size))
		r.ContentLength = size
		res, err := f.Client().Do(r)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, res.Body); n != size || err != nil {
			b.Fatal(n, err)
		}
		res.Body.Close()
	}
}

// BenchmarkAnswer is the parsing of one head alone.
func BenchmarkAnswer(b *testing.B) {
	const head = "HTTP/1.1 200 OK\r\nX-Powered-By: Express\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 12\r\nETag: W/\"c-Lve95gjOVATpfV8EL5X4nxwjKHE\"\r\nDate: Sat, 21 Nov 2026 01:00:00 GMT\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n"
	var a answer
	b.ReportAllocs()
	for b.Loop() {
		if err := a.parse(head); err != nil {
			b.Fatal(err)
		}
		clear(a.fields)
	}
}
