package limiter_test

import (
	"container/heap"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/limiter"
)

// simulation drives a real Limiter and a real Auto in the time of a synctest
// bubble. Clients and handler are events of one goroutine, so that a run is
// the same each time.
type simulation struct {
	// limit is fixed, or with 0 an Auto's, up to highest. With rule it is a
	// rule's instead.
	limit, highest int
	rule           func(l *limiter.Limiter, highest int) controller
	handler        func(*simulation) handler
	// clients are as many that send their next request when they have the
	// answer to the last, turnaround later. One that is refused comes back
	// after pause, half as long to half as long again. rate is, besides, how
	// many requests per second come at random from clients that do not come
	// back.
	clients func(at time.Duration) int
	rate    func(at time.Duration) float64
	timeout time.Duration // of an invocation; 0 is none
	length  time.Duration
	seed    uint64

	limiter *limiter.Limiter
	auto    controller // nil with a fixed limit
	random  *rand.Rand
	began   time.Time
	events  events
	answers []answer
	limits  []limiter.Change
	changed []time.Duration
	refused []int // in each second
	lost    int
	active  int
	at      time.Duration // of the event that happens now
}

// controller is an Auto, or what it is compared with.
type controller interface {
	Observe(took time.Duration)
	Timeout()
	Run(ctx context.Context)
}

// answer is a good one, when it came and how long it took.
type answer struct{ at, took time.Duration }

// handler takes a request and calls done when it is answered.
type handler interface{ serve(done func()) }

const (
	tick       = 50 * time.Millisecond // Auto looks at some of them
	turnaround = 100 * time.Microsecond
	pause      = 100 * time.Millisecond
)

type event struct {
	at  time.Duration
	seq int
	do  func()
}

type events struct {
	list []event
	seq  int
}

func (e *events) Len() int { return len(e.list) }
func (e *events) Less(i, j int) bool {
	a, b := e.list[i], e.list[j]
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}
func (e *events) Swap(i, j int) { e.list[i], e.list[j] = e.list[j], e.list[i] }
func (e *events) Push(x any)    { e.list = append(e.list, x.(event)) }
func (e *events) Pop() any {
	last := e.list[len(e.list)-1]
	e.list = e.list[:len(e.list)-1]
	return last
}

// sleep lets the time of the bubble pass, where somebody looks at it.
func (s *simulation) sleep(until time.Duration) {
	if s.auto != nil {
		time.Sleep(until - time.Since(s.began))
	}
}

// after does do in d, never in the same instant in which Auto looks.
func (s *simulation) after(d time.Duration, do func()) {
	at := s.at + max(d, 0)
	if at%time.Millisecond == 0 {
		at++
	}
	s.events.seq++
	heap.Push(&s.events, event{at, s.events.seq, do})
}

// run runs it and returns when its length has passed.
func (s *simulation) run(t *testing.T) *simulation {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s.random = rand.New(rand.NewPCG(1, s.seed))
		s.began, s.refused = time.Now(), make([]int, s.length/time.Second+1)
		s.limiter = limiter.New(s.limit, 0)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		if s.limit == 0 {
			s.auto = s.control()
			running.Go(func() { s.auto.Run(ctx) })
		}
		h := s.handler(s)
		if s.clients != nil {
			s.after(0, func() { s.invite(h) })
		}
		if s.rate != nil {
			s.after(0, func() { s.arrive(h) })
		}
		for s.events.Len() > 0 {
			next := heap.Pop(&s.events).(event)
			if next.at > s.length {
				break
			}
			if next.at/tick > s.at/tick {
				s.sleep(next.at) // Auto looks meanwhile
			}
			s.at = next.at
			next.do()
		}
		cancel()
		running.Wait()
	})
	return s
}

func (s *simulation) control() controller {
	if s.rule != nil {
		return s.rule(s.limiter, s.highest)
	}
	a := limiter.NewAuto(s.limiter, s.highest)
	a.Changed = func(c limiter.Change) {
		s.limits, s.changed = append(s.limits, c), append(s.changed, time.Since(s.began))
	}
	return a
}

// invite starts clients until as many are there as there should be; those that
// are too many leave by themselves.
func (s *simulation) invite(h handler) {
	for s.active < s.clients(s.at) {
		s.active++
		s.after(time.Duration(s.random.Int64N(int64(pause))), func() { s.client(h) })
	}
	s.after(50*time.Millisecond, func() { s.invite(h) })
}

func (s *simulation) client(h handler) {
	if s.active > s.clients(s.at) {
		s.active--
		return
	}
	if !s.request(h, func() { s.after(s.about(turnaround), func() { s.client(h) }) }) {
		s.after(s.about(pause), func() { s.client(h) })
	}
}

// about is half of d to half as much again.
func (s *simulation) about(d time.Duration) time.Duration {
	return d/2 + time.Duration(s.random.Int64N(int64(d)))
}

func (s *simulation) arrive(h handler) {
	if r := s.rate(s.at); r > 0 {
		s.request(h, func() {})
		s.after(time.Duration(s.random.ExpFloat64()/r*float64(time.Second)), func() { s.arrive(h) })
		return
	}
	s.after(50*time.Millisecond, func() { s.arrive(h) })
}

// request reports whether it was admitted; then it calls then after the
// answer.
func (s *simulation) request(h handler, then func()) bool {
	if s.limiter.Met() {
		s.refused[s.at/time.Second]++
		return false
	}
	s.sleep(s.at)
	if s.limiter.Try(math.MaxInt) != nil {
		panic("refused with a free slot")
	}
	began, ended := s.at, false
	end := func(good bool) {
		if ended {
			return // the handler goes on after a timeout; nobody listens
		}
		ended = true
		took := s.at - began
		s.sleep(s.at)
		if s.auto != nil {
			if !good {
				s.auto.Timeout()
			}
			s.auto.Observe(took)
		}
		s.limiter.Release()
		if good {
			s.answers = append(s.answers, answer{s.at, took})
		} else {
			s.lost++
		}
		then()
	}
	h.serve(func() { end(true) })
	if s.timeout > 0 {
		s.after(s.timeout, func() { end(false) })
	}
	return true
}

// figures are goodput per second and latencies between two times.
type figures struct {
	rate     float64
	p50, p99 time.Duration
	refused  float64
}

func (s *simulation) figures(from, to time.Duration) figures {
	var took []time.Duration
	for _, a := range s.answers {
		if a.at >= from && a.at < to {
			took = append(took, a.took)
		}
	}
	refused := 0
	for _, n := range s.refused[from/time.Second : to/time.Second] {
		refused += n
	}
	seconds := (to - from).Seconds()
	f := figures{rate: float64(len(took)) / seconds, refused: float64(refused) / seconds}
	if slices.Sort(took); len(took) > 0 {
		f.p50, f.p99 = took[len(took)/2], took[(len(took)-1)*99/100]
	}
	return f
}

func (f figures) String() string {
	return fmt.Sprintf("%.1f/s, p50 %v, p99 %v, %.0f refused/s", f.rate, f.p50.Round(10*time.Microsecond), f.p99.Round(10*time.Microsecond), f.refused)
}

// path is how the limit went.
func (s *simulation) path() string {
	text := ""
	for i, c := range s.limits {
		text += fmt.Sprintf("%5.1fs %d→%d %s (%.1f in flight, %v)\n", s.changed[i].Seconds(), c.From, c.To, c.Cause, c.InFlight, c.Took.Round(10*time.Microsecond))
	}
	return text
}
