package main

import (
	"cmp"
	"container/heap"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/weir-run/weir/autoscaler"
)

// What does not differ between the scenarios.
const (
	// tick is how often the demand is gathered and decided on, as in weir.
	tick = time.Second
	// kick is how soon after a wake weir decides besides.
	kick = 20 * time.Millisecond
	// holdTime is how long a request waits for a pod before it is refused.
	holdTime = 2 * time.Minute
)

// midnight is when every simulation begins; nothing depends on it.
var midnight = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// event is something that happens at a moment.
type event struct {
	at time.Duration
	// order keeps events of one moment in the order of their making.
	order int
	do    func()
}

type agenda []event

func (a agenda) Len() int { return len(a) }
func (a agenda) Less(i, j int) bool {
	return a[i].at < a[j].at || a[i].at == a[j].at && a[i].order < a[j].order
}
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)   { *a = append(*a, x.(event)) }
func (a *agenda) Pop() any {
	last := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	return last
}

// pod is a simulated replica.
type pod struct {
	started, stopping bool
	running           int
}

// world is one function with its pods, its gateway and its callers, in virtual
// time. Everything in it follows from the scenario.
type world struct {
	scenario
	rand   *rand.Rand
	now    time.Duration
	agenda agenda
	made   int

	replicas int
	pods     []*pod
	running  int             // in all pods
	held     []time.Duration // since when, first come first served
	queue    []time.Duration // the same of the messages in the queue

	// Counts and integrals since the start, as watchdogs and gateways keep
	// them, and as of the last tick.
	seen, before counters
	state        autoscaler.State
	decided      autoscaler.Decision

	result result
}

// counters only ever grow.
type counters struct {
	runningSeconds, heldSeconds float64
	serviceSeconds              float64 // of what ended
	came, begun, ended, refused int
	lastStart, lastEnd, wake    time.Duration
}

// run lives through a scenario.
func run(s scenario) result {
	w := &world{scenario: s, rand: rand.New(rand.NewPCG(s.seed, 0x57e1))}
	w.result.scenario = s
	w.scale(s.replicas)
	for _, p := range w.pods {
		p.started = true
	}
	w.arrive()
	for _, b := range s.bursts {
		w.at(b.at, func() {
			for range b.calls {
				w.call()
			}
		})
	}
	for _, b := range s.messages {
		w.at(b.at, func() {
			for range b.calls {
				w.put()
			}
		})
	}
	for range s.clients {
		w.at(s.clientsFrom, w.call)
	}
	w.at(0, w.tick)
	for len(w.agenda) > 0 {
		e := heap.Pop(&w.agenda).(event)
		if e.at >= s.length {
			break
		}
		w.pass(e.at)
		e.do()
	}
	w.pass(s.length)
	w.result.finish(w)
	return w.result
}

func (w *world) at(at time.Duration, do func()) {
	w.made++
	heap.Push(&w.agenda, event{at, w.made, do})
}

func (w *world) after(d time.Duration, do func()) { w.at(w.now+d, do) }

// pass lets time go by.
func (w *world) pass(to time.Duration) {
	seconds := (to - w.now).Seconds()
	w.seen.runningSeconds += seconds * float64(w.running)
	w.seen.heldSeconds += seconds * float64(len(w.held))
	w.now = to
}

func (w *world) started() int {
	n := 0
	for _, p := range w.pods {
		if p.started && !p.stopping {
			n++
		}
	}
	return n
}

// arrive lets calls come at random, as often as the load of the moment says: a
// Poisson process of the highest rate, thinned out.
func (w *world) arrive() {
	most := w.peak / w.service.Seconds()
	if most == 0 {
		return
	}
	var next func()
	next = func() {
		if w.rand.Float64()*w.peak < w.load(w.now) {
			w.call()
		}
		w.after(time.Duration(w.rand.ExpFloat64()/most*float64(time.Second)), next)
	}
	w.after(time.Duration(w.rand.ExpFloat64()/most*float64(time.Second)), next)
}

// call is one request that comes.
func (w *world) call() {
	w.result.calls++
	w.seen.came++
	if w.direct {
		// As a Service does: any pod, whether it has room or not.
		up := slices.DeleteFunc(slices.Clone(w.pods), func(p *pod) bool { return !p.started || p.stopping })
		if len(up) == 0 {
			w.refuse()
		} else if p := up[w.rand.IntN(len(up))]; p.running < w.maxInflight {
			w.begin(p, w.now)
		} else {
			w.refuse()
		}
		return
	}
	w.held = append(w.held, w.now)
	waiting := len(w.held)
	w.serve()
	if len(w.held) == waiting {
		w.result.noRoom++
	}
	if w.replicas == 0 {
		w.seen.wake = w.now
		w.result.wakes++
		w.scale(w.spec.AwakeReplicas())
		w.after(kick, w.decide)
	}
}

// put is one message that comes into the queue. It stays there until a pod has
// room for it, and wakes nobody.
func (w *world) put() {
	w.result.calls++
	w.queue = append(w.queue, w.now)
	w.serve()
}

func (w *world) refuse() {
	w.seen.refused++
	w.result.refused++
	if w.direct {
		w.result.noRoom++
	}
}

// serve gives what is held, and then what is in the queue, to the pods that
// have room, the emptiest first.
func (w *world) serve() {
	for len(w.held)+len(w.queue) > 0 {
		var best *pod
		for _, p := range w.pods {
			if p.started && !p.stopping && p.running < w.maxInflight && (best == nil || p.running < best.running) {
				best = p
			}
		}
		if best == nil {
			break
		}
		line := &w.held
		if len(w.held) == 0 {
			line = &w.queue
			w.seen.came++
		}
		since := (*line)[0]
		*line = (*line)[1:]
		w.begin(best, since)
	}
	for len(w.held) > 0 && w.now-w.held[0] > holdTime {
		w.held = w.held[1:]
		w.refuse()
	}
}

// begin runs a call that came at a moment.
func (w *world) begin(p *pod, came time.Duration) {
	w.result.waits = append(w.result.waits, w.now-came)
	took := time.Duration((0.5 + w.rand.Float64()) * float64(w.service))
	p.running++
	w.running++
	w.seen.begun++
	w.seen.lastStart = w.now
	w.after(took, func() {
		p.running--
		w.running--
		w.seen.ended++
		w.seen.serviceSeconds += took.Seconds()
		w.seen.lastEnd = w.now
		if w.now >= w.clientsFrom && w.now < w.clientsTo {
			w.call()
		}
		if p.stopping && p.running == 0 {
			w.pods = slices.DeleteFunc(w.pods, func(other *pod) bool { return other == p })
		}
		w.serve()
	})
}

// tick decides, notes, and comes again.
func (w *world) tick() {
	w.serve()
	w.decide()
	w.result.note(w)
	w.after(tick, w.tick)
}

// decide gathers the demand since the last time, as the loop of weir does, and
// does what Decide says.
func (w *world) decide() {
	d := w.gather()
	w.decided, w.state = autoscaler.Decide(midnight.Add(w.now), &w.spec, &d, w.state)
	if w.decided.Write() {
		w.result.decided(w.decided)
		w.scale(w.decided.Replicas)
	}
}

func (w *world) gather() autoscaler.Demand {
	d := autoscaler.Demand{
		Replicas: w.replicas, Started: w.started(), Known: true, Complete: true, Peers: true,
		MaxInflight: w.maxInflight, Open: w.running + len(w.held), Backlog: float64(len(w.queue)),
		LastStart: moment(w.seen.lastStart), LastEnd: moment(w.seen.lastEnd), LastWake: moment(w.seen.wake),
	}
	seconds := (w.now - w.result.gathered).Seconds()
	if w.now == 0 || seconds == 0 {
		d.Running, d.Held = float64(w.running), float64(len(w.held))
		return d
	}
	d.Running = (w.seen.runningSeconds - w.before.runningSeconds) / seconds
	d.Held = (w.seen.heldSeconds - w.before.heldSeconds) / seconds
	d.Arrivals = float64(w.seen.came-w.before.came) / seconds
	d.Rate = float64(w.seen.begun-w.before.begun) / seconds
	if w.seen.ended > 0 {
		service := w.seen.serviceSeconds / float64(w.seen.ended)
		d.Refused = float64(w.seen.refused-w.before.refused) / seconds * service
		d.Service = time.Duration(service * float64(time.Second))
	}
	w.before, w.result.gathered = w.seen, w.now
	return d
}

// moment is the time of something that happened; the start of the simulation
// is never.
func moment(at time.Duration) time.Time {
	if at == 0 {
		return time.Time{}
	}
	return midnight.Add(at)
}

// scale asks for replicas. New ones take their time to start; of the others
// the emptiest go, and end what they run.
func (w *world) scale(replicas int) {
	w.replicas = replicas
	staying := slices.DeleteFunc(slices.Clone(w.pods), func(p *pod) bool { return p.stopping })
	for range replicas - len(staying) {
		p := &pod{}
		w.pods = append(w.pods, p)
		w.after(w.startup+time.Duration(w.rand.Float64()*float64(w.startup)/5), func() {
			p.started = true
			w.serve()
		})
	}
	if len(staying) <= replicas {
		return
	}
	slices.SortStableFunc(staying, func(a, b *pod) int {
		switch {
		case a.started != b.started && b.started:
			return -1
		case a.started != b.started:
			return 1
		}
		return cmp.Compare(a.running, b.running)
	})
	for _, p := range staying[:len(staying)-replicas] {
		p.stopping = true
	}
	w.pods = slices.DeleteFunc(w.pods, func(p *pod) bool { return p.stopping && p.running == 0 })
}

// asked is the load of the moment; where there are bursts, messages or clients
// and nothing else, the calls that have no answer yet. Of messages in the queue
// only so many as have to run to be through with them in six seconds, once it
// is known how long that takes.
func (w *world) asked() float64 {
	if load := w.load(w.now); load > 0 {
		return load
	}
	queued := float64(len(w.queue))
	if w.seen.ended > 0 {
		queued = min(queued, queued*w.service.Seconds()/autoscaler.PanicWindow.Seconds())
	}
	return float64(w.running+len(w.held)) + queued
}

// needed is how many replicas that load asks for.
func (w *world) needed() int {
	load := w.asked()
	if load == 0 && w.spec.Zero {
		return 0
	}
	per := w.spec.TargetFor(w.maxInflight) * w.spec.Proportion
	return min(max(1, w.spec.Min, ceil(load/per)), w.spec.Max)
}

func ceil(v float64) int {
	n := int(v)
	if float64(n) < v {
		n++
	}
	return n
}
