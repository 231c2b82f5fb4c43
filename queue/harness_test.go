package queue_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/queue"
	"github.com/weir-run/weir/queue/queuetest"
)

var fn = function.Ref{Name: "fn", Namespace: "ns"}

// world is a store, the functions' pods, and weirs that come and go.
type world struct {
	t     *testing.T
	mem   *queuetest.Memory
	fleet *fleet.Fleet
	pods  *fakePods
	// latency is of every method of the store; fault and lost are asked too.
	latency time.Duration
	fault   func(method string, lane queue.Lane) error
	lost    func(method string, lane queue.Lane) error
	mu      sync.Mutex
	weirs   int
	all     []*weir
}

// in runs body in a bubble, with a store that has the bounds of cfg.
func in(t *testing.T, cfg queuetest.Config, body func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, weirs: 1, fleet: fleet.New(fleet.Config{Log: slog.New(slog.DiscardHandler)})}
		cfg.Fault = func(method string, lane queue.Lane) error {
			w.mu.Lock()
			fault, latency := w.fault, w.latency
			w.mu.Unlock()
			if latency > 0 {
				time.Sleep(latency)
			}
			if fault != nil {
				return fault(method, lane)
			}
			return nil
		}
		cfg.Lost = func(method string, lane queue.Lane) error {
			w.mu.Lock()
			lost := w.lost
			w.mu.Unlock()
			if lost != nil {
				return lost(method, lane)
			}
			return nil
		}
		w.mem = queuetest.NewMemory(cfg)
		w.pods = &fakePods{w: w, fakes: map[function.Ref]*fake{}}
		defer func() {
			for _, v := range w.all {
				v.end()
			}
		}()
		body(w)
	})
}

// slow has each method of the store take a time.
func (w *world) slow(latency time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.latency = latency
}

// fails has a method of the store fail n times, from now on; n < 0 is always.
func (w *world) fails(method string, lane queue.Lane, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = func(m string, l queue.Lane) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if m != method || lane != "" && l != lane || n == 0 {
			return nil
		}
		n--
		return fmt.Errorf("%w: so the test has it", queue.ErrAway)
	}
}

// function makes one, with pods that take limit calls at once in all.
func (w *world) function(ref function.Ref, limit int, change func(*function.Spec)) *fake {
	spec := function.Defaults()
	spec.Retry = function.Retry{Attempts: 3, Codes: []int{429, 500, 503}, MinWait: time.Second, MaxWait: 3 * time.Second, Jitter: function.NoJitter}
	if change != nil {
		change(&spec)
	}
	w.pods.mu.Lock()
	defer w.pods.mu.Unlock()
	f := w.pods.fakes[ref]
	if f == nil {
		f = &fake{changed: make(chan struct{}), placed: map[int]int{}, waits: map[int]int{}, at: map[string]int{}, answer: func(*http.Request) queue.Answer {
			return queue.Answer{Status: 200}
		}}
		w.pods.fakes[ref] = f
	}
	f.limit = limit
	if limit > 0 {
		f.started = 1
	}
	w.fleet.Put(&function.Function{Ref: ref, Spec: spec})
	return f
}

// weir is a Queue that runs.
type weir struct {
	*queue.Queue
	w     *world
	stop  context.CancelFunc
	done  chan struct{}
	store *mortal
}

// start begins the weir of a rank.
func (w *world) start(rank int, change func(*queue.Config)) *weir {
	w.t.Helper()
	store := &mortal{Store: w.mem.Store()}
	cfg := queue.Config{
		Store: store, Fleet: w.fleet, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Share: func() (int, int) { return rank, w.count() },
	}
	if change != nil {
		change(&cfg)
	}
	q, err := queue.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	v := &weir{q, w, stop, make(chan struct{}), store}
	go func() {
		defer close(v.done)
		if err := q.Run(ctx, &view{w.pods, rank}); err != nil {
			w.t.Error(err)
		}
	}()
	w.all = append(w.all, v)
	return v
}

func (w *world) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.weirs
}

func (v *weir) end() {
	v.stop()
	<-v.done
}

func (v *weir) submit(ref function.Ref, change func(*queue.Message)) queue.ID {
	v.w.t.Helper()
	m := &queue.Message{Function: ref, Method: "POST", Path: "/", Header: http.Header{}}
	if change != nil {
		change(m)
	}
	id, duplicate, err := v.Submit(context.Background(), m, "")
	if err != nil || duplicate {
		v.w.t.Errorf("Submit: %v, duplicate %v", err, duplicate)
	}
	return id
}

func (v *weir) call(id queue.ID) queue.Call {
	v.w.t.Helper()
	call, err := v.Call(context.Background(), id)
	if err != nil {
		v.w.t.Fatalf("Call(%s): %v", id, err)
	}
	return call
}

// want checks what is known of a call.
func (v *weir) want(id queue.ID, state queue.State, attempts int, reason string) queue.Call {
	v.w.t.Helper()
	call := v.call(id)
	if call.State != state || call.Attempts != attempts || call.Reason != reason {
		v.w.t.Errorf("the call is %s (%s) after %d attempts, expected %s (%s) after %d", call.State, call.Reason, call.Attempts, state, reason, attempts)
	}
	return call
}

// fake is a function's pods.
type fake struct {
	limit, started int
	// placed are at pods by weir, waits for one; at is how often each call is
	// there, by its ID.
	placed  map[int]int
	waits   map[int]int
	at      map[string]int
	held    int
	tries   int
	most    int // at once
	runs    []run
	changed chan struct{}
	answer  func(*http.Request) queue.Answer
	// refuse has the gateway refuse each call with that reason.
	refuse string
	busy   time.Duration
}

type run struct {
	at     time.Time
	id     string
	header http.Header
	rank   int
}

// fakePods are those of all functions.
type fakePods struct {
	w     *world
	mu    sync.Mutex
	fakes map[function.Ref]*fake
}

func (p *fakePods) change(ref function.Ref, change func(f *fake)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.fakes[ref]
	change(f)
	close(f.changed)
	f.changed = make(chan struct{})
}

// read is of what is not to be changed.
func (p *fakePods) read(ref function.Ref, read func(f *fake)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	read(p.fakes[ref])
}

// view is the gateway of one weir.
type view struct {
	*fakePods
	rank int
}

// share is called with p locked.
func (v *view) share(f *fake) int {
	weirs := v.w.count()
	n := f.limit / weirs
	if v.rank < f.limit%weirs {
		n++
	}
	return n
}

func (v *view) Room(e *fleet.Entry) (room, started int, changed <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f := v.fakes[e.Function().Ref]
	if f.started == 0 {
		return 0, 0, f.changed
	}
	return max(0, v.share(f)-f.placed[v.rank]-f.waits[v.rank]), f.started, f.changed
}

const holdTime = 2 * time.Minute

func (v *view) Deliver(e *fleet.Entry, r *http.Request, limit int64) queue.Answer {
	ref := e.Function().Ref
	start := time.Now()
	id := r.Header.Get("X-Call-Id")
	v.mu.Lock()
	f := v.fakes[ref]
	f.tries++
	f.held++
	f.waits[v.rank]++
	queue.Placed(r.Context())
	for {
		if f.refuse != "" {
			f.held, f.waits[v.rank] = f.held-1, f.waits[v.rank]-1
			reason := f.refuse
			v.mu.Unlock()
			return queue.Answer{Status: 503, Reason: reason, Took: time.Since(start)}
		}
		if f.started > 0 && f.placed[v.rank] < v.share(f) {
			break
		}
		changed := f.changed
		v.mu.Unlock()
		timer := time.NewTimer(holdTime - time.Since(start))
		var why string
		select {
		case <-changed:
		case <-timer.C:
			why = "no pod"
		case <-r.Context().Done():
			why = "left"
		}
		timer.Stop()
		v.mu.Lock()
		if why != "" {
			f.held, f.waits[v.rank] = f.held-1, f.waits[v.rank]-1
			v.mu.Unlock()
			return queue.Answer{Status: 503, Reason: why, Took: time.Since(start)}
		}
	}
	f.held, f.waits[v.rank] = f.held-1, f.waits[v.rank]-1
	f.placed[v.rank]++
	f.at[id]++
	if f.at[id] > 1 {
		v.w.t.Errorf("call %s runs twice at once", id)
	}
	all := 0
	for _, n := range f.placed {
		all += n
	}
	f.most = max(f.most, all)
	f.runs = append(f.runs, run{time.Now(), id, r.Header.Clone(), v.rank})
	answer := f.answer
	v.mu.Unlock()

	began := time.Now()
	a := answer(r)
	a.Took = time.Since(start)
	if a.Size == 0 {
		a.Size = int64(len(a.Body))
	}
	a.Body = a.Body[:min(int64(len(a.Body)), limit)]
	if r.Context().Err() != nil {
		a = queue.Answer{Began: true, Status: 502, Reason: "cut", Took: a.Took}
	} else if a.Reason == "" {
		a.Began = true
	}
	v.change(ref, func(f *fake) {
		f.placed[v.rank]--
		f.at[id]--
		f.busy += time.Since(began)
	})
	return a
}

// takes answers 200 after a time, or is cut off.
func takes(d time.Duration) func(*http.Request) queue.Answer {
	return func(r *http.Request) queue.Answer {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
		}
		return queue.Answer{Status: 200, Body: []byte("done")}
	}
}

// says answers codes one after the other, and then the last for ever.
func says(codes ...int) func(*http.Request) queue.Answer {
	var mu sync.Mutex
	return func(*http.Request) queue.Answer {
		mu.Lock()
		defer mu.Unlock()
		code := codes[0]
		if len(codes) > 1 {
			codes = codes[1:]
		}
		return queue.Answer{Status: code}
	}
}

// until lets time pass until cond, and returns how much did.
func (w *world) until(what string, most time.Duration, cond func() bool) time.Duration {
	w.t.Helper()
	start := time.Now()
	for !cond() {
		if time.Since(start) > most {
			w.t.Fatalf("%s: not within %v", what, most)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(start)
}

func (w *world) runs(ref function.Ref) (runs []run) {
	w.pods.read(ref, func(f *fake) { runs = append(runs, f.runs...) })
	return runs
}

// kill ends the weir as a kill does: whatever it does from now on fails, and
// what it had at pods is cut off.
func (v *weir) kill() {
	v.store.mu.Lock()
	v.store.killed = true
	v.store.mu.Unlock()
	v.stop()
}

// mortal is a weir's way to the store, until the weir is killed.
type mortal struct {
	queue.Store
	mu     sync.Mutex
	killed bool
}

var errKilled = errors.New("killed")

func (m *mortal) dead() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.killed {
		return errKilled
	}
	return nil
}

func (m *mortal) Put(ctx context.Context, lane queue.Lane, data []byte, key string) (uint64, bool, error) {
	if err := m.dead(); err != nil {
		return 0, false, err
	}
	return m.Store.Put(ctx, lane, data, key)
}

func (m *mortal) Remove(ctx context.Context, seq uint64) error {
	if err := m.dead(); err != nil {
		return err
	}
	return m.Store.Remove(ctx, seq)
}

func (m *mortal) Fetch(ctx context.Context, lane queue.Lane, n int, wait time.Duration) ([]queue.Delivery, error) {
	if err := m.dead(); err != nil {
		return nil, err
	}
	got, err := m.Store.Fetch(ctx, lane, n, wait)
	for i := range got {
		got[i] = &mortalDelivery{got[i], m}
	}
	return got, err
}

func (m *mortal) Save(ctx context.Context, id queue.ID, data []byte, keep time.Duration) error {
	if err := m.dead(); err != nil {
		return err
	}
	return m.Store.Save(ctx, id, data, keep)
}

func (m *mortal) Bury(ctx context.Context, lane queue.Lane, id queue.ID, data []byte) error {
	if err := m.dead(); err != nil {
		return err
	}
	return m.Store.Bury(ctx, lane, id, data)
}

func (m *mortal) Unbury(ctx context.Context, id queue.ID) error {
	if err := m.dead(); err != nil {
		return err
	}
	return m.Store.Unbury(ctx, id)
}

type mortalDelivery struct {
	queue.Delivery
	m *mortal
}

func (d *mortalDelivery) Ack(ctx context.Context) error {
	if err := d.m.dead(); err != nil {
		return err
	}
	return d.Delivery.Ack(ctx)
}

func (d *mortalDelivery) Retry(ctx context.Context, delay time.Duration) error {
	if err := d.m.dead(); err != nil {
		return err
	}
	return d.Delivery.Retry(ctx, delay)
}

func (d *mortalDelivery) Extend() error {
	if err := d.m.dead(); err != nil {
		return err
	}
	return d.Delivery.Extend()
}
