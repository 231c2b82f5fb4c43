package queue_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
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
