package watchdog_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	middleware "github.com/openfaas/faas-middleware/concurrency-limiter"

	"github.com/weir-run/weir/limiter"
)

// Why the gate is ours: docs/decisions/0002-our-own-limiter.md. The two tests
// below drive faas-middleware's limiter and ours in the same way. What the
// peer does wrong is shown, and would be seen to be put right; only what ours
// does can fail.

// gate puts a limit before a handler, as each of the two would in a chain.
type gate struct {
	name string
	wrap func(next http.Handler, limit int) http.Handler
	ours bool
}

var gates = []gate{
	{name: "faas-middleware", wrap: func(next http.Handler, limit int) http.Handler {
		return middleware.NewConcurrencyLimiter(next, limit).Handler()
	}},
	{name: "limiter", ours: true, wrap: func(next http.Handler, limit int) http.Handler {
		l := limiter.New(limit, 0)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := l.Acquire(r.Context()); errors.Is(err, limiter.ErrFull) {
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			defer l.Release()
			next.ServeHTTP(w, r)
		})
	}},
}

// judge fails the test when wrong is said of ours, and logs it of the peer.
func (g gate) judge(t *testing.T, wrong bool, what string, args ...any) {
	t.Helper()
	switch {
	case wrong && g.ours:
		t.Errorf(what, args...)
	case wrong:
		t.Logf("as known: "+what, args...)
	case !g.ours:
		t.Log("the peer did it right this time")
	}
}

// A proxy ends a broken stream by panic(http.ErrAbortHandler). With one slot,
// one such end and no defer, every later request is refused for good.
func TestSlotOutlivesAbort(t *testing.T) {
	for _, g := range gates {
		t.Run(g.name, func(t *testing.T) {
			server := httptest.NewServer(g.wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/abort" {
					panic(http.ErrAbortHandler)
				}
			}), 1))
			defer server.Close()
			get := func(path string) int {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Close = true // a request on a kept connection would be repeated
				res, err := server.Client().Do(req)
				if err != nil {
					return 0
				}
				_ = res.Body.Close()
				return res.StatusCode
			}
			if got := get("/"); got != http.StatusOK {
				t.Fatalf("%d before the abort", got)
			}
			if got := get("/abort"); got != 0 {
				t.Fatalf("%d from an aborted connection", got)
			}
			// Ours gives the slot back while the abort unwinds, which the
			// client may see a moment before it has.
			got, patience := 0, 20*time.Second
			if !g.ours {
				patience = 200 * time.Millisecond
			}
			for end := time.Now().Add(patience); got != http.StatusOK && time.Now().Before(end); {
				got = get("/")
			}
			g.judge(t, got != http.StatusOK, "after one abort: %d with nothing running", got)
		})
	}
}

// A refused request counts as running until its refusal has been counted out.
// In a storm these phantoms fill slots that are free.
func TestStormFindsFreeSlots(t *testing.T) {
	// More threads than processors: the system then stops them anywhere, also
	// between the two counts.
	const clients, rounds = 16, 2000
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(clients))
	for _, g := range gates {
		t.Run(g.name, func(t *testing.T) {
			h := g.wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), 1)
			wrong, refused := 0, 0
			for range 4 {
				w, r := intoFreeSlots(visits(h, clients, rounds), 1)
				wrong, refused = wrong+w, refused+r
			}
			g.judge(t, wrong > 0, "%d of %d refusals with the slot free all the while", wrong, refused)
		})
	}
}

// visit is one request, on a clock that counts calls: from before it was made
// until after it was answered.
type visit struct {
	from, to uint64
	refused  bool
}

// answer keeps the status and costs nothing else.
type answer struct {
	header http.Header
	status int
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) Write(p []byte) (int, error) { return len(p), nil }
func (a *answer) WriteHeader(status int)      { a.status = status }

func visits(h http.Handler, clients, rounds int) []visit {
	var clock atomic.Uint64
	seen := make([][]visit, clients)
	var all sync.WaitGroup
	begin := make(chan struct{})
	for c := range clients {
		all.Go(func() {
			<-begin
			req := httptest.NewRequest(http.MethodGet, "/", nil)
			for range rounds {
				w := answer{header: http.Header{}}
				v := visit{from: clock.Add(1)}
				h.ServeHTTP(&w, req)
				v.to, v.refused = clock.Add(1), w.status == http.StatusTooManyRequests
				seen[c] = append(seen[c], v)
			}
		})
	}
	close(begin)
	all.Wait()
	return slices.Concat(seen...)
}

// intoFreeSlots counts the refusals during which fewer admitted requests than
// limit were anywhere between call and answer: whatever the order, a slot was
// free from the first moment to the last.
func intoFreeSlots(all []visit, limit int) (wrong, refused int) {
	var from, to []uint64
	for _, v := range all {
		if !v.refused {
			from, to = append(from, v.from), append(to, v.to)
		}
	}
	slices.Sort(from)
	slices.Sort(to)
	for _, v := range all {
		if !v.refused {
			continue
		}
		refused++
		begun, _ := slices.BinarySearch(from, v.to)
		ended, _ := slices.BinarySearch(to, v.from)
		if begun-ended < limit {
			wrong++
		}
	}
	return wrong, refused
}
