package fleet

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Bounds of probing where a Prober names none, and the fixed ones.
const (
	// DefaultInterval is a small part of what any container takes to start.
	DefaultInterval = 25 * time.Millisecond
	// DefaultLook is how long a pod may have filled up or died before it is
	// noticed, when no request met it.
	DefaultLook = 5 * time.Second
	// DefaultTimeout lets a pod that has no CPU for a moment answer.
	DefaultTimeout = 2 * time.Second
	// DefaultLimit bounds the descriptors and goroutines of probes.
	DefaultLimit = 512

	// firstInterval is for the first moments with an address: where the
	// address comes with the process, that serves a few of them later. Until
	// Interval is reached these are some 15 probes more.
	firstInterval = 5 * time.Millisecond
	// freshFor is how long a pod that is not started is asked often.
	freshFor = 10 * time.Second
	// freshTimeout is short because the first SYN to a new address may be
	// lost, and the kernel sends its second after a whole second.
	freshTimeout = 500 * time.Millisecond
	// fullFirst and fullPause are the pauses between looks at a pod without
	// room: refusals come in bursts, and room may come back at once.
	fullFirst = 10 * time.Millisecond
	fullPause = 50 * time.Millisecond
	// guardedTries of a pod without room for want of a resource are as often.
	// It may lack it for good, and that is not asked all the time.
	guardedTries = 200
	// nudgePause is the least time between two probes of a pod, however many
	// requests met something.
	nudgePause = 10 * time.Millisecond
	// guessLook is how often a pod that took connections and never answered
	// is asked again whether it is a watchdog after all.
	guessLook = time.Minute
	// silentTries without an answer make a ready pod a plain one.
	silentTries = 3
	// doubtsKept: of so many answers in a row that a request contradicted
	// while they were on their way, the next one counts all the same.
	doubtsKept = 2
)

// Prober asks pods what they are. A pod that is not started is asked often,
// then less; one that serves and has room costs nothing but a rare look. The
// zero value of a field is its default. A Prober serves one Fleet.
type Prober struct {
	Log *slog.Logger
	// Interval is the pause between two probes of a new pod, once it has had
	// an address for 200 ms; before it is less. It grows to ten times that
	// within 10 s, and to forty times within a minute.
	Interval time.Duration
	// Look is the mean time between two looks at a pod that serves and has
	// room; it is longer where these are more than a thousand (calmRate).
	Look time.Duration
	// Timeout is for one probe; of a new pod it is at most freshTimeout.
	Timeout time.Duration
	// Limit is how many probes may be under way at once.
	Limit int

	// ask does one probe; nil is askPod. Tests set it.
	ask func(context.Context, *question) outcome

	mu    sync.Mutex
	lines [classes]line // set up by the first use
	kept  int           // connections that wait for their next probe
	wake  chan struct{}
	under sync.WaitGroup // probes
	ended bool

	complained time.Time
}

// watch is what the Prober knows of a pod. All of it is guarded by Prober.mu.
type watch struct {
	place place
	class class
	index int // in the heap of its place
	// again: something was met while the pod was being asked.
	again bool
	// guessed: plain because it never answered, not by what it answered.
	guessed bool
	// misses counts probes in a row that ran out of time or got no answer,
	// doubted the answers that came too late to be believed.
	misses, doubted uint8
	// tries counts probes since the pod was last put into its class.
	tries uint32
	due   time.Time
	asked time.Time // the last probe's begin
	since time.Time // not started since; zero while it is
	conn  *conn     // kept for the next probe
	// unreached is why the last probe found nobody; nil if it found somebody.
	unreached error
}

// run probes until ctx ends.
func (pr *Prober) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	pr.mu.Lock()
	pr.setUp()
	pr.mu.Unlock()
	for {
		pr.mu.Lock()
		wait := pr.dispatch(ctx, time.Now())
		pr.mu.Unlock()
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			pr.under.Wait()
			pr.end()
			return nil
		case <-timer.C:
		case <-pr.wake:
		}
	}
}

// setUp makes the zero value usable; pods may come before run.
func (pr *Prober) setUp() {
	if pr.wake != nil {
		return
	}
	pr.wake = make(chan struct{}, 1)
	if pr.Log == nil {
		pr.Log = slog.New(slog.DiscardHandler)
	}
	pr.Interval = orDefault(pr.Interval, DefaultInterval)
	pr.Look = orDefault(pr.Look, DefaultLook)
	pr.Timeout = orDefault(pr.Timeout, DefaultTimeout)
	pr.Limit = orDefault(pr.Limit, DefaultLimit)
	if pr.ask == nil {
		pr.ask = askPod
	}
	for c := range pr.lines {
		pr.lines[c] = newLine(class(c), pr.Limit)
	}
}

func orDefault[T int | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

// end gives back the connections; pods that come later are not asked.
func (pr *Prober) end() {
	pr.mu.Lock()
	defer pr.mu.Unlock()
	pr.ended = true
	for c := range pr.lines {
		l := &pr.lines[c]
		for _, p := range slices.Concat(l.waiting.pods, l.due.pods) {
			pr.unlist(p)
			pr.close(p)
		}
	}
}

// notice is called when a pod is new, when what the provider says of it has
// changed, and when a request met something at it.
func (pr *Prober) notice(p *Pod) {
	pr.mu.Lock()
	defer pr.mu.Unlock()
	pr.setUp()
	w := &p.watch
	if pr.ended || w.place == left || p.About().Addr == "" {
		return
	}
	if w.place == asking {
		w.again = true
		return
	}
	before := *w
	w.tries = 0
	now := time.Now()
	pr.enlist(p, now)
	switch {
	case w.class != full:
		pr.hurry(p, now)
	case before.class == full && before.place != nowhere:
		// It said so a moment ago; but many refusals in a row shall not put
		// the next look off.
		pr.hurry(p, before.due)
	}
	pr.signal()
}

// hurry moves a pod's next probe to now, as far as nudgePause allows. The lock
// is held.
func (pr *Prober) hurry(p *Pod, now time.Time) {
	w := &p.watch
	if w.place != waiting {
		return
	}
	if soonest := w.asked.Add(nudgePause); now.Before(soonest) {
		now = soonest
	}
	if now.Before(w.due) {
		w.due = now
		pr.lines[w.class].waiting.fix(w.index)
	}
}

// forget is called when a pod is no more.
func (pr *Prober) forget(p *Pod) {
	pr.mu.Lock()
	defer pr.mu.Unlock()
	pr.setUp()
	asked := p.watch.place == asking
	pr.unlist(p)
	p.watch.place = left
	if !asked { // else the probe's end closes it
		pr.close(p)
	}
}

// signal has the loop look again.
func (pr *Prober) signal() {
	select {
	case pr.wake <- struct{}{}:
	default:
	}
}

// start has a pod asked. The lock is held.
func (pr *Prober) start(ctx context.Context, p *Pod, now time.Time) {
	w := &p.watch
	pr.lines[w.class].active++
	w.place, w.again, w.asked = asking, false, now
	w.tries++
	if w.conn != nil {
		pr.kept--
	}
	said := p.Said()
	q := &question{
		addr:    p.About().Addr,
		conn:    w.conn,
		connect: said.Nature == Plain && !w.guessed,
		keep:    (w.class == fresh || w.class == full) && pr.kept+pr.underway() < pr.Limit,
		timeout: pr.Timeout,
	}
	w.conn = nil
	if !w.since.IsZero() && now.Sub(w.since) < freshFor {
		q.timeout = min(q.timeout, freshTimeout)
	}
	pr.under.Go(func() { pr.probe(ctx, p, q) })
}

func (pr *Prober) underway() int {
	n := 0
	for c := range pr.lines {
		n += pr.lines[c].active
	}
	return n
}

// probe is one probe, in a goroutine of its own.
func (pr *Prober) probe(ctx context.Context, p *Pod, q *question) {
	out := pr.ask(ctx, q)
	if out.kind == unasked && ctx.Err() == nil {
		pr.complain(out.err)
	}
	if ctx.Err() == nil && pr.believed(p, &out) {
		pr.learn(p, out)
	}
	pr.mu.Lock()
	defer pr.mu.Unlock()
	w := &p.watch
	pr.lines[w.class].active--
	w.conn = out.conn
	if w.conn != nil {
		pr.kept++
	}
	defer pr.signal()
	if w.place == left || ctx.Err() != nil {
		pr.close(p)
		return
	}
	w.place = nowhere
	pr.enlist(p, time.Now())
	if w.again {
		pr.hurry(p, w.asked)
	}
}

// complain says that weir itself cannot ask, once a minute.
func (pr *Prober) complain(err error) {
	pr.mu.Lock()
	first := time.Since(pr.complained) > time.Minute
	if first {
		pr.complained = time.Now()
	}
	pr.mu.Unlock()
	if first {
		pr.Log.Warn("pods cannot be asked for want of this machine's own resources; "+
			"raise the limit of open files or of local ports", "error", err)
	}
}

// believed counts an outcome in with those before it, and says whether it is
// to be believed: what a request met after the question was asked is newer.
func (pr *Prober) believed(p *Pod, out *outcome) bool {
	pr.mu.Lock()
	defer pr.mu.Unlock()
	w := &p.watch
	if w.again && w.doubted < doubtsKept {
		w.doubted++
		return false
	}
	w.doubted = 0
	if out.kind == unasked {
		return false
	}
	if out.slow || out.kind == silence {
		w.misses = min(w.misses, 254) + 1
	} else {
		w.misses = 0
	}
	out.misses = w.misses
	return true
}

func (pr *Prober) learn(p *Pod, out outcome) {
	was := *p.Said()
	heard, guessed := judge(was, p.About().Ready, out)
	p.Learn(heard)
	pr.mu.Lock()
	// One that cannot be reached is still only guessed to be plain.
	p.watch.guessed = guessed || p.watch.guessed && out.kind == nobody
	p.watch.unreached = out.err
	pr.mu.Unlock()
	if now := p.Said(); now.State != was.State || now.Nature != was.Nature {
		pr.Log.Debug("pod", "function", p.entry.Function().Ref.String(), "pod", p.About().Name,
			"state", now.State.String(), "nature", now.Nature.String(), "maxInflight", now.MaxInflight)
	}
}

// enlist puts a pod where its next probe is due, or nowhere. The lock is held.
func (pr *Prober) enlist(p *Pod, now time.Time) {
	w := &p.watch
	pr.unlist(p)
	if p.State() == Started {
		w.since = time.Time{}
	} else if w.since.IsZero() {
		w.since = now
	}
	c, pause, asked := pr.next(p, now)
	if c != w.class {
		w.tries = 0
	}
	// A connection is worth keeping only for the next moment.
	if !asked || c == calm || c == stale {
		pr.close(p)
	}
	w.class = c
	if asked {
		w.due, w.place = now.Add(jitter(pause)), waiting
		pr.lines[c].waiting.push(p)
	}
}

// unlist takes a pod out of its heap. The lock is held.
func (pr *Prober) unlist(p *Pod) {
	w := &p.watch
	switch w.place {
	case waiting:
		pr.lines[w.class].waiting.remove(w.index)
	case due:
		pr.lines[w.class].due.remove(w.index)
	default:
		return
	}
	w.place = nowhere
}

// close gives back the connection that was kept. The lock is held.
func (pr *Prober) close(p *Pod) {
	if c := p.watch.conn; c != nil {
		p.watch.conn = nil
		pr.kept--
		_ = c.Close()
	}
}
