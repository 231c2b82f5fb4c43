package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A shot is one request of a load.
type shot struct {
	Method string // GET, or POST if there is a body
	Path   string
	Body   []byte // given back by echo, and compared
	Want   int    // 200 unless told
	Header http.Header
}

// A load is clients that each send one request after another.
type load struct {
	URLs    []string // of the weirs, in turn over the clients
	Clients int
	N       int                   // how many requests in all; 0: until stopped
	Next    func(n int64) shot    // the n-th request, from 0
	Timeout time.Duration         // of one request; 3 minutes unless told
	Pause   time.Duration         // of a client between two requests
	Sent    func(n int64, s shot) // told before a request is sent, if set
}

// A failure is a request that was not answered as it should.
type failure struct {
	At     time.Time // the answer or the error
	Sent   time.Time
	N      int64
	URL    string
	Method string
	Status int   // 0: no answer
	Err    error // what was wrong
	Wrote  bool  // a byte of the request was given to the kernel
	Reused bool  // on a connection that had served before
}

func (f failure) String() string {
	return fmt.Sprintf("%s (sent %.3f s before, request %d, %s %s, wrote %v, reused %v): status %d: %v",
		f.At.UTC().Format("15:04:05.000"), f.At.Sub(f.Sent).Seconds(), f.N, f.Method, f.URL, f.Wrote, f.Reused, f.Status, f.Err)
}

// A result is what came of a load.
type result struct {
	mu       sync.Mutex
	Done     int // requests that ended, in whatever way
	OK       int // answered as they should
	Statuses map[int]int
	Pods     map[string]int       // answers by the pod that gave them
	Started  map[string]time.Time // of those pods' handlers
	Failures []failure
	Took     []time.Duration
	Tries    int // answers that came of a repeat
	Begin    time.Time
	End      time.Time
}

// A running load.
type runningLoad struct {
	result *result
	cancel context.CancelFunc // no new requests
	done   chan struct{}
}

// fire starts a load. It ends when N requests are through, by stop, or with
// the test.
func fire(t *testing.T, l load) *runningLoad {
	t.Helper()
	if l.Timeout == 0 {
		l.Timeout = patience
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := &runningLoad{cancel: cancel, done: make(chan struct{}), result: &result{
		Statuses: map[int]int{}, Pods: map[string]int{}, Started: map[string]time.Time{}, Begin: time.Now(),
	}}
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		MaxIdleConnsPerHost: l.Clients, DisableCompression: true,
	}
	var next atomic.Int64
	var clients sync.WaitGroup
	for i := range l.Clients {
		clients.Go(func() {
			base := l.URLs[i%len(l.URLs)]
			for ctx.Err() == nil {
				n := next.Add(1) - 1
				if l.N > 0 && n >= int64(l.N) {
					return
				}
				s := l.Next(n)
				if l.Sent != nil {
					l.Sent(n, s)
				}
				r.result.shoot(transport, base, n, s, l.Timeout)
				if l.Pause > 0 {
					select {
					case <-time.After(l.Pause):
					case <-ctx.Done():
					}
				}
			}
		})
	}
	go func() {
		clients.Wait()
		transport.CloseIdleConnections()
		r.result.End = time.Now()
		cancel()
		close(r.done)
	}()
	return r
}

// stop sends no more requests, waits for the answers, and returns the result.
func (r *runningLoad) stop() *result {
	r.cancel()
	<-r.done
	return r.result
}

// wait is for the load's own end.
func (r *runningLoad) wait() *result {
	<-r.done
	return r.result
}

func (r *result) shoot(transport http.RoundTripper, base string, n int64, s shot, timeout time.Duration) {
	f := failure{Sent: time.Now(), N: n, URL: base + s.Path, Method: s.Method}
	if f.Method == "" {
		f.Method = http.MethodGet
		if s.Body != nil {
			f.Method = http.MethodPost
		}
	}
	want := s.Want
	if want == 0 {
		want = http.StatusOK
	}
	// A load that is stopped waits for its answers: only the timeout ends one.
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var wrote, reused atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:          func(i httptrace.GotConnInfo) { reused.Store(i.Reused) },
		WroteHeaderField: func(string, []string) { wrote.Store(true) },
	})
	req, err := http.NewRequestWithContext(ctx, f.Method, f.URL, bytes.NewReader(s.Body))
	if err != nil {
		r.failed(f, err)
		return
	}
	if s.Body == nil {
		req.Body, req.ContentLength = nil, 0
	}
	for name, values := range s.Header {
		req.Header[name] = values
	}
	resp, err := transport.RoundTrip(req)
	f.At, f.Wrote, f.Reused = time.Now(), wrote.Load(), reused.Load()
	if err != nil {
		r.failed(f, err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	f.At, f.Status = time.Now(), resp.StatusCode
	switch {
	case err != nil:
		err = fmt.Errorf("body after %d bytes: %w", len(body), err)
	case resp.StatusCode != want:
		err = fmt.Errorf("want %d: %.200q", want, body)
	case s.Body != nil && want == http.StatusOK && sha256.Sum256(body) != sha256.Sum256(s.Body):
		err = fmt.Errorf("another body: %d bytes for %d", len(body), len(s.Body))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Done++
	r.Statuses[resp.StatusCode]++
	r.Took = append(r.Took, f.At.Sub(f.Sent))
	if pod := resp.Header.Get("X-Pod"); pod != "" {
		r.Pods[pod]++
		if _, known := r.Started[pod]; !known {
			r.Started[pod], _ = time.Parse(time.RFC3339Nano, resp.Header.Get("X-Started"))
		}
	}
	if err != nil {
		f.Err = err
		r.Failures = append(r.Failures, f)
		return
	}
	r.OK++
}

func (r *result) failed(f failure, err error) {
	f.At, f.Err = time.Now(), err
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Done++
	r.Failures = append(r.Failures, f)
}

// clean fails the test for every request that went wrong; it shows the first.
func (r *result) clean(t *testing.T, what string) {
	t.Helper()
	const shown = 10
	for i, f := range r.Failures {
		if i == shown {
			break
		}
		t.Errorf("%s: %v", what, f)
	}
	if len(r.Failures) > 0 {
		t.Errorf("%s: %d of %d requests failed; statuses %v", what, len(r.Failures), r.Done, r.Statuses)
	}
}

// noise is a body of its own for every seed.
func noise(seed int64, size int) []byte {
	b := make([]byte, size)
	r := rand.New(rand.NewPCG(uint64(seed), 1))
	for i := 0; i < size; i += 8 {
		v := r.Uint64()
		for j := i; j < min(i+8, size); j++ {
			b[j] = byte(v)
			v >>= 8
		}
	}
	return b
}
