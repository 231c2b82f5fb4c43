package autoscaler

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// tracked is what is kept of one function from tick to tick.
type tracked struct {
	ref function.Ref

	// What only the one look that is under way touches.
	state    State
	pods     map[string]Counters // by UID, as last read
	gateways map[string]carried  // by gateway
	// service is the mean time a request took, in seconds, when last seen;
	// ended is when a request was last seen to have ended in a pod.
	service float64
	ended   time.Time

	mu sync.Mutex // of what follows
	// looking: a worker has it. writing: a change is under way.
	looking, writing bool
	last             Decision
	history          []Change
}

// begin takes the function for one look.
func (t *tracked) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.looking || t.writing {
		return false
	}
	t.looking = true
	return true
}

func (t *tracked) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.looking = false
}

// carried is what a gateway carried for the function at one moment.
type carried struct {
	now    time.Time
	demand fleet.Demand
}

// look gathers what there is to know of a function, decides, and acts.
func (a *Autoscaler) look(ctx context.Context, j job) {
	t := j.tracked
	defer t.end()
	if j.entry.Gone() {
		return
	}
	fn, now := j.entry.Function(), time.Now() // its Version, before the demand is read
	g := gathering{a: a, t: t, fn: fn, pods: j.entry.Pods(), gateways: j.gateways, now: now, peers: j.complete}
	g.gather(ctx, false)
	decision, state := Decide(now, &fn.Spec, &g.demand, t.state)
	if decision.ReadAll {
		g.gather(ctx, true)
		decision, state = Decide(now, &fn.Spec, &g.demand, t.state)
	}
	if ctx.Err() != nil {
		return
	}
	g.keep()
	t.state = state
	t.mu.Lock()
	t.last = decision
	t.mu.Unlock()
	a.metrics.load(fn.Ref, decision)
	if decision.Write() {
		a.act(ctx, change{fn, t, decision, g.inFlight})
	}
}

// gathering is the making of one Demand.
type gathering struct {
	a        *Autoscaler
	t        *tracked
	fn       *function.Function
	pods     []*fleet.Pod
	gateways []carry
	now      time.Time
	peers    bool // all other weirs were read

	demand Demand
	read   map[string]Counters // this tick's, by UID
	// inFlight is what goes on in each pod at this moment, by name.
	inFlight map[string]int
}

// gather fills demand. With all set every pod is read, none sampled; what was
// read already is not asked for again.
func (g *gathering) gather(ctx context.Context, all bool) {
	g.demand = Demand{
		Replicas: g.fn.Replicas, Peers: g.peers, Autoscaled: g.fn.Autoscaled, Fixed: g.fn.Fixed,
		Created: g.fn.Created, LastEnd: g.t.ended, Backlog: float64(g.a.backlog(g.fn.Ref)),
	}
	g.inFlight = make(map[string]int, len(g.pods))
	watchdogs, plain := g.sort()
	g.gatewaysCarry(plain)
	g.countersSay(ctx, watchdogs, all)
	d := &g.demand
	limits, limited := 0, 0
	for _, p := range g.pods {
		if p.State() == fleet.Started {
			d.Started++
		}
		if n := p.Said().MaxInflight; n > 0 && p.Said().Nature == fleet.Watchdog {
			limits, limited = limits+n, limited+1
		}
		busy := g.inFlight[p.About().Name] > 0
		if busy && p.State() != fleet.Stopping {
			d.Busy = append(d.Busy, p.About().Name)
			d.Unready = d.Unready || g.fn.Kind == function.KindDeployment && !p.About().Ready
		}
	}
	if limited > 0 {
		d.MaxInflight = max(1, limits/limited)
	}
}

// sort says which pods have counters to read, and which are known by what the
// gateways give them: a watchdog elsewhere (KindURL) says nowhere where its
// counters are. A pod that never answered has no load; until it had
// zero-after to start in, it forbids a decrease.
func (g *gathering) sort() (watchdogs []*fleet.Pod, plain map[string]bool) {
	plain = map[string]bool{}
	for _, p := range g.pods {
		about, said := p.About(), p.Said()
		switch {
		case p.State() == fleet.Stopping:
		case said.Nature == fleet.Watchdog && about.Metrics != "":
			watchdogs = append(watchdogs, p)
		case said.Nature == fleet.Watchdog, said.Nature == fleet.Plain:
			plain[about.UID] = true
		case g.now.Sub(about.Created) < g.fn.Spec.ZeroAfter:
			g.demand.Unknown++
		}
	}
	return watchdogs, plain
}

// gatewaysCarry adds what the gateways carry: what is held, and what they gave
// to pods that have no counters of their own.
func (g *gathering) gatewaysCarry(plain map[string]bool) {
	d := &g.demand
	for _, c := range g.gateways {
		was, known := g.t.gateways[c.gateway]
		span := c.now.Sub(was.now).Seconds()
		mean := func(total, before float64, present int) float64 {
			if !known || span < leastSpan || total < before {
				return float64(present)
			}
			return (total - before) / span
		}
		d.Held += mean(c.demand.HeldSeconds, was.demand.HeldSeconds, c.demand.Held)
		if known && span >= leastSpan && c.demand.Calls >= was.demand.Calls {
			d.Arrivals += float64(c.demand.Calls-was.demand.Calls) / span
		}
		d.Open += c.demand.Running + c.demand.Held
		d.LastStart = latest(d.LastStart, c.demand.LastStart)
		d.LastEnd = latest(d.LastEnd, c.demand.LastEnd)
		d.LastWake = latest(d.LastWake, c.demand.LastWake)
		for name, p := range c.demand.Pods {
			g.inFlight[name] += p.Running
			if !plain[p.UID] {
				continue
			}
			before := was.demand.Pods[name]
			if before.UID != p.UID {
				before = fleet.PodDemand{}
			}
			d.Running += mean(p.Seconds, before.Seconds, p.Running)
			if known && span >= leastSpan && p.Calls >= before.Calls {
				d.Rate += float64(p.Calls-before.Calls) / span
			}
			if ended := float64(p.Calls) - float64(before.Calls) - float64(p.Running-before.Running); ended > 0 && p.Seconds > before.Seconds {
				g.t.service = (p.Seconds - before.Seconds) / ended
			}
		}
	}
}

// jitter is how much the same moment may differ from one reading to the next,
// as a float of seconds between clocks. Less is no other start.
const jitter = time.Millisecond

// leastSpan is the shortest time that a mean is formed over, in seconds; below
// it what is present is the better word.
const leastSpan = 0.02

// countersSay adds what the watchdogs counted.
func (g *gathering) countersSay(ctx context.Context, watchdogs []*fleet.Pod, all bool) {
	d := &g.demand
	picked := watchdogs
	if !all {
		picked = sample(watchdogs, g.now)
	}
	d.Complete = len(picked) == len(watchdogs)
	var sum pace
	read := 0
	for _, r := range g.readings(ctx, picked) {
		if r.err != nil {
			d.Unknown++
			g.a.say("pod "+g.fn.String(), "a pod's counters cannot be read: its function does not shrink until they can", r.err)
			continue
		}
		read++
		if was, known := g.t.pods[r.pod.About().UID]; known && r.now.LastStart.Sub(was.LastStart).Abs() < jitter {
			r.now.LastStart = was.LastStart
		}
		g.read[r.pod.About().UID] = r.now
		sum.add(g.pace(r))
		name := r.pod.About().Name
		open := int(math.Ceil(r.now.InFlight + r.now.Queued))
		g.inFlight[name] = max(g.inFlight[name], open)
		d.Open += open
		d.LastStart = latest(d.LastStart, r.now.LastStart)
	}
	d.LastEnd = latest(d.LastEnd, g.t.ended)
	d.Known = read > 0 || len(watchdogs) == 0
	if sum.finished > 0 && sum.inFlight > 0 {
		g.t.service = sum.inFlight / sum.finished
	}
	d.Service = time.Duration(g.t.service * float64(time.Second))
	if read == 0 {
		return
	}
	scale := float64(len(watchdogs)) / float64(read)
	d.Running += sum.running * scale
	d.Queued += sum.queued * scale
	d.Refused += sum.refused * scale * g.t.service
	d.Rate += sum.started * scale
	d.CPU += sum.cpu * scale
}

// readings asks those of the pods that were not read in this look already.
func (g *gathering) readings(ctx context.Context, pods []*fleet.Pod) []reading {
	if g.read == nil {
		g.read = make(map[string]Counters, len(pods))
	}
	var have []reading
	var ask []*fleet.Pod
	for _, p := range pods {
		if c, ok := g.read[p.About().UID]; ok {
			have = append(have, reading{pod: p, now: c})
		} else {
			ask = append(ask, p)
		}
	}
	if len(ask) == 0 {
		return have
	}
	return append(have, g.a.read(ctx, ask)...)
}

// keep makes this look the one that the next is compared with. Pods that were
// not read keep what they said, while they exist.
func (g *gathering) keep() {
	pods := make(map[string]Counters, len(g.pods))
	for _, p := range g.pods {
		uid := p.About().UID
		if c, ok := g.read[uid]; ok {
			pods[uid] = c
		} else if c, ok := g.t.pods[uid]; ok {
			pods[uid] = c
		}
	}
	g.t.pods = pods
	g.t.gateways = nil
	if len(g.gateways) > 0 {
		g.t.gateways = make(map[string]carried, len(g.gateways))
		for _, c := range g.gateways {
			g.t.gateways[c.gateway] = carried{c.now, *c.demand}
		}
	}
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
