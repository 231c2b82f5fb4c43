// Package guard keeps a function from dying of too much work: it watches
// memory, descriptors, processes and disk, and says how many requests may run
// before one of them runs out. It samples in the background; the request path
// pays one atomic load.
package guard

import (
	"context"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"
)

// Resource is what can run out. Its text is a metric label, and the reason of
// a refusal.
type Resource string

// The resources.
const (
	Memory      Resource = "memory"
	Descriptors Resource = "fds"
	Processes   Resource = "pids"
	Disk        Resource = "disk"
)

// Resources are all there are, in a fixed order.
var Resources = []Resource{Memory, Descriptors, Processes, Disk}

// Config is what is guarded. The zero Mark turns a guard off.
type Config struct {
	// Memory, Descriptors and Processes are marks of use: at or above them
	// new work is refused.
	Memory, Descriptors, Processes Mark
	// Disk is a mark of free space and free inodes, below which new work is
	// refused, on the file system of DiskPath.
	Disk     Mark
	DiskPath string
}

// Load is what a Guard must know of the work.
type Load struct {
	Running  int    // in flight now
	Finished uint64 // ended so far
}

// Guard is one program's guards. Use New, set the fields, then Run. All
// methods are safe for concurrent use.
type Guard struct {
	// Log takes a line for each thing that an operator should know. It is
	// called by Run; nil drops them.
	Log func(format string, args ...any)
	// Handler is the process whose descriptors are watched beside our own;
	// nil or a result of 0 is none.
	Handler func() int
	// Load is asked before each sample; nil is taken for no load.
	Load func() Load

	verdict atomic.Uint64
	groups  []*group
	poke    chan struct{}

	mu      sync.Mutex
	renewed chan struct{} // closed when the verdict is formed anew; nil when nobody waits
}

// New returns a Guard that allows everything until Run has taken a sample.
func New(cfg Config) *Guard {
	g := &Guard{poke: make(chan struct{}, 1)}
	g.verdict.Store(uint64(allowed(unbounded, 0, false)))
	root := newMachine()
	g.groups = []*group{g.processGroup(cfg, root), g.diskGroup(cfg)}
	for _, gr := range g.groups {
		gr.verdict = g.Verdict() // until it is sampled, which a group without watches never is
	}
	return g
}

// What a request is taken to need before any was seen.
const (
	// priorMemory is what a request of an interpreter with a picture or a
	// document in hand may take: a limit of 256 MiB begins with three at once.
	priorMemory = 64 << 20
	// leastMemory is a connection on both sides with its buffers.
	leastMemory = 32 << 10
	// priorProcesses is a shell that starts a program with a few threads.
	priorProcesses = 8
	// leastProcesses: a handler with an event loop starts nothing.
	leastProcesses = 1.0 / 64
	// ownDescriptors are the pipes of a process per request, or the
	// connections to the handler. They are not learned: kept connections of
	// idle clients would be taken for what requests need.
	ownDescriptors = 6
	// handlerDescriptors: the connection and a file.
	handlerDescriptors = 2
)

// processGroup watches what the processes of this container use.
func (g *Guard) processGroup(cfg Config, root fs.FS) *group {
	handler := func() int {
		if g.Handler == nil {
			return 0
		}
		return g.Handler()
	}
	return &group{guard: g, poke: g.poke, watches: watches(
		&watch{resource: Memory, what: "memory", mark: cfg.Memory, source: newMemory(root),
			ahead: &lookahead{prior: priorMemory, least: leastMemory}},
		&watch{resource: Descriptors, what: "the watchdog's descriptors", mark: cfg.Descriptors, source: newOwnFds(root),
			ahead: &lookahead{prior: ownDescriptors, fixed: true}},
		&watch{resource: Descriptors, what: "the handler's descriptors", mark: cfg.Descriptors, source: newHandlerFds(root, handler),
			ahead: &lookahead{prior: handlerDescriptors, fixed: true}},
		&watch{resource: Processes, what: "processes and threads", mark: cfg.Processes, source: newPids(root),
			ahead: &lookahead{prior: priorProcesses, least: leastProcesses}},
	)}
}

// diskGroup watches the disk, apart from the rest: the file system may be one
// of a network that does not answer.
func (g *Guard) diskGroup(cfg Config) *group {
	bytes, inodes := newDisk(cfg.DiskPath)
	share := cfg.Disk
	if share.Absolute() {
		share = Mark{} // so many bytes say nothing of inodes
	}
	return &group{guard: g, watches: watches(
		&watch{resource: Disk, what: "disk space", mark: cfg.Disk, free: true, source: bytes},
		&watch{resource: Disk, what: "inodes", mark: share, free: true, source: inodes},
	)}
}

func watches(all ...*watch) []*watch {
	var on []*watch
	for _, w := range all {
		if !w.mark.Off() {
			on = append(on, w)
		}
	}
	return on
}

// Run samples until ctx ends. The first samples are taken before it waits for
// anything.
func (g *Guard) Run(ctx context.Context) {
	var running sync.WaitGroup
	for _, gr := range g.groups {
		if len(gr.watches) > 0 {
			running.Go(func() { gr.run(ctx) })
		}
	}
	done := make(chan struct{})
	go func() { running.Wait(); close(done) }()
	<-ctx.Done()
	select {
	case <-done:
	case <-time.After(stuckSystemCall):
	}
}

// stuckSystemCall bounds the wait for a sample that does not come back: a
// system call on a dead network file system cannot be ended.
const stuckSystemCall = time.Second

// Verdict says how many requests may run, as of the last samples.
type Verdict uint64

const (
	verdictMost     = 8 // bits below the count
	verdictLearning = 1 << 7
)

func allowed(most, resource int, learning bool) Verdict {
	v := Verdict(most)<<verdictMost | Verdict(resource)
	if learning {
		v |= verdictLearning
	}
	return v
}

// Most is how many requests may run at once; 0 when none may start.
func (v Verdict) Most() int { return int(v >> verdictMost) }

// Resource is what does not allow more than Most.
func (v Verdict) Resource() Resource { return Resources[int(v)&(verdictLearning-1)] }

// Learning: Most is so low only because little is known yet of what a request
// takes, and is likely to be higher soon.
func (v Verdict) Learning() bool { return v&verdictLearning != 0 }

// Verdict is one atomic load.
func (g *Guard) Verdict() Verdict { return Verdict(g.verdict.Load()) }

// Await waits until the verdict has been formed anew, which it asks for, or
// ctx ends; then it returns the cause. Without a guard that looks ahead there
// is nothing to wait for.
func (g *Guard) Await(ctx context.Context) error {
	if len(g.groups[0].watches) == 0 {
		return nil
	}
	g.mu.Lock()
	if g.renewed == nil {
		g.renewed = make(chan struct{})
	}
	renewed := g.renewed
	g.mu.Unlock()
	select {
	case g.poke <- struct{}{}:
	default: // somebody has asked already
	}
	select {
	case <-renewed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// judge forms the verdict of all groups.
func (g *Guard) judge() {
	g.mu.Lock()
	defer g.mu.Unlock()
	worst := allowed(unbounded, 0, false)
	for _, gr := range g.groups {
		if v := gr.verdict; v.Most() < worst.Most() {
			worst = v
		}
	}
	g.verdict.Store(uint64(worst))
	if g.renewed != nil {
		close(g.renewed)
		g.renewed = nil
	}
}

// Usage is the share of each resource that is in use, of its limit; of a disk
// the share that is not available. A resource whose guard is off or cannot be
// read is not in it.
func (g *Guard) Usage() map[Resource]float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	usage := map[Resource]float64{}
	for _, gr := range g.groups {
		for _, s := range gr.shown {
			usage[s.resource] = max(usage[s.resource], s.ratio)
		}
	}
	return usage
}

// Tripped is the resource that has been beyond its mark longest, and since
// when; ok is false when none is.
func (g *Guard) Tripped() (r Resource, since time.Time, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, gr := range g.groups {
		for _, s := range gr.shown {
			if !s.since.IsZero() && (!ok || s.since.Before(since)) {
				r, since, ok = s.resource, s.since, true
			}
		}
	}
	return r, since, ok
}

func (g *Guard) log(format string, args ...any) {
	if g.Log != nil {
		g.Log(format, args...)
	}
}

// Pauses between samples.
const (
	// workPause while anything runs, calmPause while nothing does: a burst
	// that comes then is seen within it.
	workPause = 100 * time.Millisecond
	calmPause = 200 * time.Millisecond
	// nearPause when use would be at its mark within a few pauses, were it to
	// grow on as it did, and askedPause when requests are held until more is
	// known.
	nearPause  = 25 * time.Millisecond
	askedPause = 10 * time.Millisecond
	// nearSteps is how many workPauses away a mark is near.
	nearSteps = 4
)

// group is what is sampled by one goroutine.
type group struct {
	guard   *Guard
	watches []*watch
	poke    <-chan struct{} // asks for a sample at once; nil when nobody does

	// The results of the last sample, guarded by Guard.mu.
	verdict Verdict
	shown   []shown

	last time.Time
}

// shown is what others may ask of a watch.
type shown struct {
	resource Resource
	ratio    float64
	since    time.Time // tripped since; zero when it is not
}

func (gr *group) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-gr.poke:
			if rest := askedPause - time.Since(gr.last); rest > 0 {
				timer.Reset(rest)
				continue
			}
		}
		timer.Reset(gr.sample(time.Now()))
	}
}

// sample reads every watch and returns when to do so again.
func (gr *group) sample(now time.Time) (pause time.Duration) {
	load := gr.guard.load()
	elapsed := now.Sub(gr.last)
	gr.last = now
	pause = calmPause
	if load.Running > 0 {
		pause = workPause
	}
	verdict, results := allowed(unbounded, 0, false), make([]shown, 0, len(gr.watches))
	for _, w := range gr.watches {
		if !w.read(gr.guard.log) {
			continue
		}
		w.judge(now, load, gr.guard)
		if v := w.verdict(); v.Most() < verdict.Most() {
			verdict = v
		}
		if w.near(elapsed) {
			pause = nearPause
		}
		results = append(results, shown{w.resource, w.ratio, w.since})
	}
	gr.guard.mu.Lock()
	gr.verdict, gr.shown = verdict, results
	gr.guard.mu.Unlock()
	gr.guard.judge()
	return pause
}

func (g *Guard) load() Load {
	if g.Load == nil {
		return Load{}
	}
	return g.Load()
}
