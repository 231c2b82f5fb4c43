package queue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/queue"
	"github.com/weir-run/weir/queue/queuetest"
)

// receivers answer callbacks in place of the network.
type receivers struct {
	mu     sync.Mutex
	answer func(r *http.Request, nth int) (*http.Response, error)
	start  time.Time
	came   []arrival
	now    map[string]int
	most   map[string]int
}

type arrival struct {
	at   time.Duration
	to   string
	head http.Header
	body string
}

func (s *receivers) RoundTrip(r *http.Request) (*http.Response, error) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.came = append(s.came, arrival{time.Since(s.start), r.Method + " " + r.URL.String(), r.Header, string(body)})
	nth := len(s.came)
	s.now[r.URL.Host]++
	s.most[r.URL.Host] = max(s.most[r.URL.Host], s.now[r.URL.Host])
	answer := s.answer
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.now[r.URL.Host]--
		s.mu.Unlock()
	}()
	return answer(r, nth)
}

func (s *receivers) sent() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.came)
}

// first is the first that came.
func (s *receivers) first() arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.came[0]
}

// atOnce is the most that were at each host at a moment.
func (s *receivers) atOnce() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.most)
}

// answerWith takes the place of answer.
func (s *receivers) answerWith(code int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = func(*http.Request, int) (*http.Response, error) { return status(code) }
}

func (s *receivers) times() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []time.Duration
	for _, a := range s.came {
		all = append(all, a.at)
	}
	return all
}

func (s *receivers) at(host string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, a := range s.came {
		if strings.Contains(a.to, "//"+host+"/") {
			n++
		}
	}
	return n
}

func status(code int, header ...string) (*http.Response, error) {
	resp := &http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("an answer"))}
	for i := 0; i < len(header); i += 2 {
		resp.Header.Set(header[i], header[i+1])
	}
	return resp, nil
}

// never answers, and fails when the caller has had enough.
func never(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// senders is a store and those that send its callbacks.
type senders struct {
	t       *testing.T
	memory  *queuetest.Memory
	store   *queuetest.Store
	network *receivers
	cfg     queue.CallbackConfig
	submit  func(ctx context.Context, m *queue.Message, key string) (queue.ID, bool, error)
	log     words
	*queue.CallbackSender
}

func newSenders(t *testing.T, cfg queue.CallbackConfig, store queuetest.Config, answer func(r *http.Request, nth int) (*http.Response, error)) *senders {
	t.Helper()
	cfg.Namespace = "fn"
	if cfg.MaxBody == 0 {
		cfg.MaxBody = 1 << 20
	}
	s := &senders{t: t, memory: queuetest.NewMemory(store), cfg: cfg,
		network: &receivers{answer: answer, start: time.Now(), now: map[string]int{}, most: map[string]int{}}}
	s.store = s.memory.Store()
	s.CallbackSender = s.another()
	return s
}

// another is another weir, or the next life of one.
func (s *senders) another() *queue.CallbackSender {
	s.t.Helper()
	c, err := queue.NewCallbackSender(s.cfg, queue.CallbackParts{
		Store: s.memory.Store(), Log: s.logger(), Send: s.network,
		Submit: func(ctx context.Context, m *queue.Message, key string) (queue.ID, bool, error) {
			return s.submit(ctx, m, key)
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *senders) logger() *slog.Logger { return slog.New(slog.NewTextHandler(&s.log, nil)) }

// begin runs a sender. kill ends it as it stands, drain lets it end.
func begin(c *queue.CallbackSender) (drain, kill func()) {
	ctx, drained := context.WithCancel(context.Background())
	abort, killed := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Run(ctx, abort)
	}()
	return func() { drained(); <-done; killed() }, func() { killed(); drained(); <-done }
}

// words are a log's.
type words struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all.Write(p)
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all.String()
}

func callID(n int) queue.ID {
	return queue.ID{Nonce: queue.Nonce{byte(n), byte(n >> 8), 9}, Seq: uint64(n) + 1}
}

// give puts the callback of an ended call.
func (s *senders) give(n int, url string) queue.ID {
	s.t.Helper()
	id := callID(n)
	m := &queue.Message{Function: function.Ref{Name: "figlet", Namespace: "fn"}, CallID: fmt.Sprintf("trace-%d", n), Callback: url}
	state := &queue.Call{State: queue.Succeeded, Code: 200, Attempts: 3, MaxAttempts: 10, Ended: time.Now()}
	answer := &queue.Answer{Began: true, Status: 200, Header: http.Header{"Content-Type": {"text/plain"}}, Body: []byte("result"), Size: 6, Took: 1500 * time.Millisecond}
	if err := s.Put(context.Background(), m, id, state, answer); err != nil {
		s.t.Fatal(err)
	}
	return id
}

func (s *senders) of(id queue.ID) queue.Callback {
	s.t.Helper()
	state, err := s.State(context.Background(), id, "?")
	if err != nil {
		s.t.Fatal(err)
	}
	return *state
}

const hook = "http://receiver.example/hook?k=v"

func TestCallbackTellsTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{MaxBody: 10}, queuetest.Config{}, func(*http.Request, int) (*http.Response, error) { return status(202) })
		m := &queue.Message{Function: function.Ref{Name: "figlet", Namespace: "fn"}, CallID: "trace-1", Callback: hook, Header: http.Header{queue.HeaderDepth: {"3"}}}
		state := &queue.Call{State: queue.Dead, Reason: "attempts\r\n", Code: 503, Attempts: 4, MaxAttempts: 4, Ended: time.Now()}
		answer := &queue.Answer{Began: true, Status: 503, Body: []byte("a long result"), Size: 5000, Took: 1500 * time.Millisecond, Header: http.Header{
			"Content-Type": {"a/b"}, "X-Own": {"1", "2"}, "Connection": {"X-Hop"}, "X-Hop": {"1"}, "Content-Length": {"5000"},
			"X-Function-Name": {"forged"}, "X-Weir-State": {"forged"}, "X-Call-Id": {"forged"}, "X-Watchdog-Reject": {"inflight"}}}
		id := callID(1)
		if got := s.of(id); got.State != queue.Queued {
			t.Errorf("before it is sent: %+v", got)
		}
		for range 2 { // the second one is of the same call: one callback
			if err := s.Put(context.Background(), m, id, state, answer); err != nil || s.memory.Items() != 1 {
				t.Fatalf("%v, %d items", err, s.memory.Items())
			}
		}
		drain, _ := begin(s.CallbackSender)
		defer drain()
		synctest.Wait()
		if s.network.sent() != 1 {
			t.Fatalf("sent %d times", s.network.sent())
		}
		got := s.network.first()
		if got.to != "POST "+hook || got.body != "a long res" {
			t.Errorf("%s with %q", got.to, got.body)
		}
		want := http.Header{"Content-Type": {"a/b"}, "X-Own": {"1", "2"}, "User-Agent": {"weir"},
			"X-Call-Id": {"trace-1"}, "X-Duration-Seconds": {"1.500000"}, "X-Function-Status": {"503"}, "X-Function-Name": {"figlet"},
			"X-Function-Namespace": {"fn"}, "X-Retry": {"3"}, "X-Retry-Max": {"4"}, "X-Weir-State": {"dead"}, "X-Weir-Reason": {"attempts  "},
			"X-Weir-Cut": {"body"}, "X-Weir-Body-Size": {"5000"}, queue.HeaderDepth: {"4"}}
		for name := range want {
			if !slices.Equal(got.head[name], want[name]) {
				t.Errorf("%s: %q, expected %q", name, got.head[name], want[name])
			}
		}
		if len(got.head) != len(want) {
			t.Errorf("header %v, expected %v", got.head, want)
		}
		if got := s.of(id); got != (queue.Callback{URL: hook, State: queue.Succeeded, Code: 202, Attempts: 1}) || s.memory.Items() != 0 {
			t.Errorf("%+v, %d items are left", got, s.memory.Items())
		}
	})
}

// A call that no handler began has no answer.
func TestCallbackOfACallThatExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{}, queuetest.Config{}, func(*http.Request, int) (*http.Response, error) { return status(200) })
		drain, _ := begin(s.CallbackSender)
		defer drain()
		m := &queue.Message{Function: function.Ref{Name: "f", Namespace: "fn"}, Callback: hook}
		if err := s.Put(context.Background(), m, callID(1), &queue.Call{State: queue.Dead, Reason: "expired"}, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.Put(context.Background(), &queue.Message{}, callID(2), &queue.Call{State: queue.Dead}, nil); err != nil || s.memory.Items() > 1 {
			t.Errorf("a call without a callback: %v, %d items", err, s.memory.Items())
		}
		synctest.Wait()
		got := s.network.first().head
		if got.Get("X-Function-Status") != "504" || got.Get("X-Weir-Reason") != "expired" || got.Get("X-Retry") != "0" || got.Get("X-Call-Id") != callID(1).String() {
			t.Errorf("%v", got)
		}
	})
}

func TestCallbackIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		answers := []func(r *http.Request) (*http.Response, error){
			func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") },
			func(*http.Request) (*http.Response, error) { return status(500) },
			func(*http.Request) (*http.Response, error) { return status(503, "Retry-After", "90") },
			func(*http.Request) (*http.Response, error) {
				return status(429, "Retry-After", began.Add(500*time.Second).UTC().Format(http.TimeFormat))
			},
			func(*http.Request) (*http.Response, error) { return status(429, "Retry-After", "0") },
			func(*http.Request) (*http.Response, error) { return status(408, "Retry-After", "7000") },
			never, // 30 seconds
			func(*http.Request) (*http.Response, error) { return status(503, "Retry-After", "soon") },
			func(*http.Request) (*http.Response, error) { return status(204) },
		}
		s := newSenders(t, queue.CallbackConfig{Retry: function.Retry{Attempts: 10, MinWait: 10 * time.Second, MaxWait: 100 * time.Second, Jitter: function.NoJitter}},
			queuetest.Config{}, func(r *http.Request, nth int) (*http.Response, error) { return answers[nth-1](r) })
		drain, _ := begin(s.CallbackSender)
		defer drain()
		id := s.give(1, hook)
		time.Sleep(5 * time.Second)
		if got := s.of(id); got.State != queue.Retrying || got.Attempts != 1 || got.Code != 0 || !strings.Contains(got.Reason, "connection refused") || !got.Next.Equal(began.Add(10*time.Second)) {
			t.Errorf("after the first: %+v", got)
		}
		time.Sleep(time.Hour)
		want := []time.Duration{0, 10, 30, 120, 500, 510, 610, 740, 840} // 0+10, 10+20, 30+90, the date, not below 10, 100, 30+100, 100
		for i := range want {
			want[i] *= time.Second
		}
		if got := s.network.times(); !slices.Equal(got, want) {
			t.Errorf("sent at %v, expected %v", got, want)
		}
		if got := s.of(id); got != (queue.Callback{URL: hook, State: queue.Succeeded, Code: 204, Attempts: 9}) || s.memory.Items() != 0 {
			t.Errorf("%+v, %d items are left", got, s.memory.Items())
		}
	})
}

func TestCallbackDefaultWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{}, queuetest.Config{}, func(*http.Request, int) (*http.Response, error) { return status(502) })
		drain, _ := begin(s.CallbackSender)
		defer drain()
		id := s.give(1, hook)
		time.Sleep(2 * time.Hour)
		want := []time.Duration{0}
		for _, wait := range []time.Duration{5, 10, 20, 40, 80, 160, 320, 600, 600} { // all of it: the test's chance is 0
			want = append(want, want[len(want)-1]+wait*time.Second)
		}
		if got := s.network.times(); !slices.Equal(got, want) {
			t.Errorf("sent at %v, expected %v", got, want)
		}
		if got := s.of(id); got.State != queue.Failed || got.Attempts != 10 || got.Code != 502 || !strings.Contains(got.Reason, "Bad Gateway") || !got.Next.IsZero() || s.memory.Items() != 0 {
			t.Errorf("%+v, %d items are left", got, s.memory.Items())
		}
		if !strings.Contains(s.log.String(), "callback given up") || strings.Contains(s.log.String(), "k=v") {
			t.Errorf("the log says %s", s.log.String())
		}
	})
}

func TestCallbackIsNotTriedAgain(t *testing.T) {
	for code, want := range map[int]string{301: "redirects are not followed", 307: "redirects", 304: "redirects", 400: "Bad Request", 404: "Not Found", 410: "Gone", 101: "Switching"} {
		synctest.Test(t, func(t *testing.T) {
			s := newSenders(t, queue.CallbackConfig{}, queuetest.Config{}, func(*http.Request, int) (*http.Response, error) {
				return status(code, "Location", "http://169.254.169.254/")
			})
			drain, _ := begin(s.CallbackSender)
			defer drain()
			id := s.give(1, hook)
			time.Sleep(time.Hour)
			if got := s.of(id); got.State != queue.Failed || got.Code != code || got.Attempts != 1 || !strings.Contains(got.Reason, want) || s.network.sent() != 1 || s.memory.Items() != 0 {
				t.Errorf("%d: %+v, sent %d times, %d items", code, got, s.network.sent(), s.memory.Items())
			}
		})
	}
}

func TestCallbackExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{MaxAge: time.Hour}, queuetest.Config{}, func(*http.Request, int) (*http.Response, error) {
			return status(503, "Retry-After", "7200")
		})
		drain, _ := begin(s.CallbackSender)
		defer drain()
		id := s.give(1, hook)
		time.Sleep(59 * time.Minute)
		if got := s.of(id); got.State != queue.Retrying {
			t.Errorf("before: %+v", got)
		}
		time.Sleep(2 * time.Minute)
		if got := s.of(id); got.State != queue.Failed || got.Attempts > 2 || s.memory.Items() != 0 {
			t.Errorf("%+v, %d items", got, s.memory.Items())
		}
	})
}

func TestCallbackAttemptsSurviveAKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var killed atomic.Bool
		s := newSenders(t, queue.CallbackConfig{Retry: function.Retry{Attempts: 5, MinWait: 10 * time.Second, MaxWait: 10 * time.Second, Jitter: function.NoJitter}},
			queuetest.Config{Fault: func(string, queue.Lane) error {
				if killed.Load() {
					return queue.ErrAway // who is killed writes nothing more
				}
				return nil
			}}, func(*http.Request, int) (*http.Response, error) { return status(500) })
		id := s.give(1, hook)
		for range 20 {
			_, kill := begin(s.another())
			time.Sleep(7 * time.Second)
			killed.Store(true)
			kill()
			killed.Store(false)
		}
		if got := s.of(id); got.State != queue.Failed || got.Attempts != 5 || s.network.sent() != 5 {
			t.Errorf("%+v, sent %d times", got, s.network.sent())
		}
		at := s.network.times()
		for i := 1; i < len(at); i++ {
			if at[i]-at[i-1] < 10*time.Second {
				t.Errorf("sent at %v", at)
			}
		}
	})
}

// A store that is killed may lose how often something was delivered, and when
// it was to be delivered again. The callback's own state has both.
func TestCallbackKeepsItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{}, queuetest.Config{}, func(*http.Request, int) (*http.Response, error) {
			return status(503, "Retry-After", "600")
		})
		drain, _ := begin(s.CallbackSender)
		id := s.give(1, hook)
		time.Sleep(time.Second)
		drain()
		item, err := s.store.Get(context.Background(), 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.store.Put(context.Background(), queue.Callbacks, item.Data, ""); err != nil {
			t.Fatal(err)
		}
		if err := s.store.Remove(context.Background(), 1); err != nil {
			t.Fatal(err)
		}
		s.network.answerWith(200)
		drain, _ = begin(s.another())
		defer drain()
		time.Sleep(time.Hour)
		if got := s.of(id); got.State != queue.Succeeded || got.Attempts != 2 || !slices.Equal(s.network.times(), []time.Duration{0, 600 * time.Second}) {
			t.Errorf("%+v, sent at %v", got, s.network.times())
		}
	})
}

// What is written may be known only by half.
func TestCallbackThatArrivedIsNotSentAgain(t *testing.T) {
	for name, cfg := range map[string]func(fail func(method string) error) queuetest.Config{
		"the acknowledgement fails": func(fail func(string) error) queuetest.Config {
			return queuetest.Config{Fault: func(method string, _ queue.Lane) error { return fail(method) }}
		},
		"the acknowledgement's answer is lost": func(fail func(string) error) queuetest.Config {
			return queuetest.Config{Lost: func(method string, _ queue.Lane) error { return fail(method) }}
		},
	} {
		for _, method := range []string{"Ack", "Save"} {
			for _, with := range []error{queue.ErrAway, errors.New("odd")} {
				synctest.Test(t, func(t *testing.T) {
					began := time.Now()
					s := newSenders(t, queue.CallbackConfig{}, cfg(func(m string) error {
						if m == method && time.Since(began) < 10*time.Second {
							return with
						}
						return nil
					}), func(*http.Request, int) (*http.Response, error) { return status(200) })
					drain, _ := begin(s.CallbackSender)
					defer drain()
					id := s.give(1, hook)
					time.Sleep(5 * time.Minute)
					if got := s.of(id); got.State != queue.Succeeded || s.network.sent() != 1 || s.memory.Items() != 0 {
						t.Errorf("%s: %s, %v: %+v, sent %d times, %d items", name, method, with, got, s.network.sent(), s.memory.Items())
					}
				})
			}
		}
	}
}

// A receiver that is dead holds its few places, and all others go on.
func TestDeadReceiverHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{}, queuetest.Config{}, func(r *http.Request, _ int) (*http.Response, error) {
			if strings.HasPrefix(r.URL.Host, "dead") {
				return never(r)
			}
			time.Sleep(100 * time.Millisecond)
			return status(200)
		})
		for i := range 200 {
			s.give(i, fmt.Sprintf("http://dead-%d.example/", i%3))
		}
		s.network.start = time.Now()
		_, kill := begin(s.CallbackSender)
		defer kill()
		for i := range 40 {
			s.give(200+i, "http://well.example/")
		}
		time.Sleep(2 * time.Second) // 40 × 100 ms in 8 places are half a second
		if n := s.network.at("well.example"); n != 40 {
			t.Errorf("%d of 40 were sent in 2 s", n)
		}
		time.Sleep(10 * time.Minute)
		for host, most := range s.network.atOnce() {
			if most > queue.AtReceiver {
				t.Errorf("%d at once at %s", most, host)
			}
		}
		if most := s.network.atOnce()["dead-0.example"]; most != queue.AtReceiver {
			t.Errorf("a dead one had %d at once", most)
		}
	})
}

// Hundreds for a receiver that is dead cost the store little, and when it is
// back they arrive.
func TestDeadReceiverCostsLittle(t *testing.T) {
	const many, hours = 300, 1
	synctest.Test(t, func(t *testing.T) {
		var handedBack atomic.Int64
		s := newSenders(t, queue.CallbackConfig{}, queuetest.Config{Fault: func(method string, _ queue.Lane) error {
			if method == "Retry" {
				handedBack.Add(1)
			}
			return nil
		}}, func(r *http.Request, _ int) (*http.Response, error) { return never(r) })
		for i := range many {
			s.give(i, hook)
		}
		drain, _ := begin(s.CallbackSender)
		defer drain()
		time.Sleep(hours * time.Hour)
		// Put off for two and a half minutes at least, a few rounds at the
		// beginning aside.
		if n := handedBack.Load(); n > many*(hours*24+6) {
			t.Errorf("%d were handed back %d times in an hour", many, n)
		}
		s.network.answerWith(200)
		time.Sleep(20 * time.Minute)
		if n := s.memory.Items(); n > 0 {
			t.Errorf("%d have not arrived", n)
		}
	})
}

func TestCallbacksAtOnceAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{}, queuetest.Config{}, func(r *http.Request, _ int) (*http.Response, error) { return never(r) })
		for i := range 250 {
			s.give(i, fmt.Sprintf("http://dead-%d.example/", i/4))
		}
		_, kill := begin(s.CallbackSender)
		time.Sleep(29 * time.Second)
		if n := s.network.sent(); n != queue.AtOnce {
			t.Errorf("%d at once, expected %d", n, queue.AtOnce)
		}
		kill()
	})
}

// With more than there is room for, every one gets its turn.
func TestCallbacksOfOneReceiverAllArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{}, queuetest.Config{}, func(*http.Request, int) (*http.Response, error) {
			time.Sleep(50 * time.Millisecond)
			return status(200)
		})
		drain, _ := begin(s.CallbackSender)
		defer drain()
		for i := range 250 {
			s.give(i, hook)
		}
		for s.memory.Items() > 0 && time.Since(s.network.start) < time.Minute {
			time.Sleep(10 * time.Millisecond)
		}
		// 250 × 50 ms in 8 places are 1.6 s.
		if took := time.Since(s.network.start); took > 5*time.Second || s.network.sent() != 250 {
			t.Errorf("%d sent in %v", s.network.sent(), took)
		}
	})
}

// The lease is 15 s, the receiver takes 29 s.
func TestCallbackIsSentOnceWhileItLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{}, queuetest.Config{}, func(*http.Request, int) (*http.Response, error) {
			time.Sleep(29 * time.Second)
			return status(200)
		})
		drain, _ := begin(s.CallbackSender)
		defer drain()
		other, _ := begin(s.another())
		defer other()
		for i := range 20 { // some of them wait at hand for their turn
			s.give(i, hook)
		}
		time.Sleep(3 * time.Hour)
		if s.network.sent() != 20 || s.memory.Items() != 0 {
			t.Errorf("sent %d times, %d items", s.network.sent(), s.memory.Items())
		}
	})
}

func TestCallbacksDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{}, queuetest.Config{}, func(*http.Request, int) (*http.Response, error) {
			time.Sleep(20 * time.Second)
			return status(200)
		})
		drain, _ := begin(s.CallbackSender)
		for i := range 12 { // eight run, four wait at hand
			s.give(i, hook)
		}
		time.Sleep(time.Second)
		go func() {
			time.Sleep(time.Second)
			s.network.answerWith(200)
			_, kill := begin(s.another())
			time.Sleep(time.Minute)
			kill()
		}()
		drain()
		if took := time.Since(s.network.start); took != 20*time.Second {
			t.Errorf("drained after %v", took)
		}
		if s.network.sent() != 12 || s.network.times()[8] != 2*time.Second {
			t.Errorf("sent at %v", s.network.times())
		}
		time.Sleep(2 * time.Minute)
		if s.network.sent() != 12 || s.memory.Items() != 0 {
			t.Errorf("sent %d times, %d items", s.network.sent(), s.memory.Items())
		}
	})
}

// What is cut off is handed back at once, and was no attempt.
func TestCallbacksAbort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{}, queuetest.Config{}, func(r *http.Request, _ int) (*http.Response, error) { return never(r) })
		_, kill := begin(s.CallbackSender)
		id := s.give(1, hook)
		time.Sleep(time.Second)
		kill()
		s.network.answerWith(200)
		drain, _ := begin(s.another())
		defer drain()
		synctest.Wait()
		if got := s.of(id); got.State != queue.Succeeded || got.Attempts != 1 || s.network.sent() != 2 {
			t.Errorf("%+v, sent %d times", got, s.network.sent())
		}
	})
}

func TestCallbackThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{MaxAge: time.Hour}, queuetest.Config{}, nil)
		drain, _ := begin(s.CallbackSender)
		defer drain()
		if _, _, err := s.store.Put(context.Background(), queue.Callbacks, []byte{99, 1, 2}, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Minute)
		if s.memory.Items() != 1 || !strings.Contains(s.log.String(), "version 99") {
			t.Errorf("%d items; the log says %s", s.memory.Items(), s.log.String())
		}
		time.Sleep(2 * time.Minute)
		if s.memory.Items() != 0 || !strings.Contains(s.log.String(), "callback dropped") {
			t.Errorf("%d items; the log says %s", s.memory.Items(), s.log.String())
		}
	})
}
