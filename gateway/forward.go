package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/invoke"
	"github.com/weir-run/weir/proxy"
)

const (
	// maxTries is how often a request is given to a handler that may have
	// begun it: only an idempotent one more than once.
	maxTries = 3
	// statusClientLeft is nginx's, for metrics and log: nobody sees it.
	statusClientLeft = 499
	// maxLoggedPath bounds what a log line holds of a path.
	maxLoggedPath = 256
)

// ConnContext is for the http.Server in front of the gateway: with it a client
// that hangs up is noticed also while a long body of its waits to be read.
var ConnContext = proxy.ConnContext

// call is one request to one function, from its first byte to its last.
type call struct {
	g     *Gateway
	lane  *lane
	entry *fleet.Entry
	w     http.ResponseWriter
	r     *http.Request
	try   *proxy.Call
	claim claim

	id, startTime string
	start         time.Time
	values        [4]string // of the request's headers that are replaced

	// status is what was answered, 0 before.
	status int
	// reason is why the pod refused the last try; sends counts the tries that
	// a pod saw something of, begun those that its handler may have.
	reason       string
	sends, begun int
	held         time.Duration

	// What Deliver asks afterwards. own is the answer where it is the
	// gateway's, passed says that it is a watchdog's refusal. refusedByPod: one
	// had no room. unsure: the last try was cut where a handler may have begun
	// it; tried is how long that try took.
	own                          *refusal
	passed, refusedByPod, unsure bool
	tried                        time.Duration
}

// serve is one call of a function from its first byte to its last. path is
// what goes to the function: the raw path and query.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request, e *fleet.Entry, path string) {
	g.newCall(w, r, e, path).serve()
}

func (g *Gateway) newCall(w http.ResponseWriter, r *http.Request, e *fleet.Entry, path string) *call {
	c := &call{g: g, lane: g.lane(e), entry: e, w: w, r: r, start: time.Now()}
	c.startTime = strconv.FormatInt(c.start.UnixNano(), 10)
	c.try = proxy.NewCall(w, r)
	c.try.Path, c.try.MaxBody = path, g.cfg.MaxBody
	c.try.Judge, c.try.Answer, c.try.Kept = c.judge, c.answer, c.lane.keepBytes
	return c
}

func (c *call) serve() {
	defer c.end()
	if !c.identify() {
		c.refuse(&refusal{http.StatusBadRequest, "call_id", wantCallID, 0})
		return
	}
	if err := c.admit(); err != nil {
		c.fail(err)
		return
	}
	c.run()
}

// admit gets the call its first pod. The function is woken at once; a body
// that fits into memory is read before a pod's place is taken for it, so that a
// slow client holds up nobody.
func (c *call) admit() error {
	l := c.lane
	// That of an asynchronous call is in memory.
	bodiless := c.claim.own || c.r.ContentLength == 0 || c.r.Body == nil || c.r.Body == http.NoBody
	err := l.enter(&c.claim, bodiless)
	if l.takesCompany(c.entry, c.start) {
		c.g.accompany(l, c.entry, c.start)
	}
	if err != nil || c.claim.place != nil {
		return err
	}
	if err := c.try.ReadAhead(c.claim.deadline); err != nil {
		l.quit(&c.claim)
		return err
	}
	err = l.wait(c.try.Context(), &c.claim)
	c.held = time.Since(c.start)
	return err
}

// run tries the call on pods until one answers it, or nothing more can be done.
func (c *call) run() {
	for {
		if c.claim.to == nil {
			c.lane.release(&c.claim, lost)
			if err := c.another("unreachable"); err != nil {
				c.fail(err)
				return
			}
			continue
		}
		c.prepare()
		err := c.once()
		if err == nil {
			if c.status == 0 {
				c.status = http.StatusSwitchingProtocols
			}
			return
		}
		var tried *proxy.TryError
		if !errors.As(err, &tried) {
			c.fail(err)
			return
		}
		if !c.next(tried) {
			return
		}
	}
}

// once is one try. The pod gets its place back however it ends, by a panic of
// the writer too.
func (c *call) once() error {
	how, from := took, time.Now()
	c.unsure = true
	defer func() {
		c.tried = time.Since(from)
		c.lane.release(&c.claim, how)
	}()
	err := c.try.Try(c.claim.to)
	var tried *proxy.TryError
	if c.unsure = errors.As(err, &tried); c.unsure {
		how, c.unsure = c.ending(tried), unsure(tried)
	}
	return err
}

// ending says what a try that was not answered tells about the pod.
func (c *call) ending(t *proxy.TryError) ending {
	switch t.Stage {
	case proxy.NotTaken:
		if t.Local() {
			return unused
		}
		return lost
	case proxy.Refused:
		switch c.reason {
		case contract.RejectDraining:
			return drains
		case contract.RejectHandler:
			return lost
		}
		return refused
	case proxy.Sent:
		return cut
	case proxy.Begun:
		if errors.Is(t.Err, context.Canceled) {
			return took
		}
		return cut
	}
	return took
}

// prepare sets what differs from one try to the next.
func (c *call) prepare() {
	c.try.Watchdog = c.claim.pod.Said().Nature == fleet.Watchdog
	if c.try.Header == nil {
		c.headers()
	}
	if c.sends > 0 {
		c.try.Header[contract.HeaderTry] = []string{strconv.Itoa(c.sends + 1)}
	}
}

// judge is asked about each answer: what a watchdog refused goes no further.
func (c *call) judge(status int, h proxy.Fields) (pass bool) {
	if c.claim.woken {
		c.claim.woken = false
		c.lane.sawAnswer()
	}
	if !c.try.Watchdog {
		return true
	}
	c.reason = h.Get(contract.HeaderReject)
	return c.reason == ""
}

// answer is called before an answer's head goes to the client.
func (c *call) answer(status int, h http.Header) {
	c.status = status
	c.mark(h)
}

var closeValue = []string{"close"}

func (c *call) mark(h http.Header) {
	h[contract.HeaderCallID] = []string{c.id}
	h[headerStartTime] = []string{c.startTime}
	// A client that came to know by this is not cut off while it sends the
	// next request on a connection that it kept.
	if c.g.Draining() && c.status != http.StatusSwitchingProtocols {
		h["Connection"] = closeValue
	}
}

// next decides what becomes of a call that a pod did not answer, and gets it
// another pod if it is to be tried once more.
func (c *call) next(t *proxy.TryError) (again bool) {
	switch t.Stage {
	case proxy.NotTaken:
		if t.Local() {
			c.fail(&refusal{http.StatusServiceUnavailable, "resources", "weir has no descriptors or ports left", retryStarted})
			return false
		}
		if t.Final {
			c.refuse(&refusal{http.StatusBadGateway, "cut", fmt.Sprintf("function %s: the pod cannot be reached, and what was read of the request's body is not kept: send it again", c.lane.ref), 0})
			return false
		}
		if err := c.another("unreachable"); err != nil {
			c.fail(err)
			return false
		}
		return true
	case proxy.Refused:
		c.sends++
		c.lane.done.count(familyPods, knownReason(c.reason))
		if s := t.Answer.Status; s == http.StatusTooManyRequests || s == http.StatusServiceUnavailable {
			c.refusedByPod = true
		}
		if t.Final {
			c.passOn(t)
			return false
		}
		err := c.another("refused")
		switch {
		case err == nil:
			return true
		case c.reason == contract.RejectHandler:
			c.fail(err) // that pod is no more: what keeps the others says more
		default:
			c.passOn(t)
		}
		return false
	case proxy.Sent:
		return c.repeat(t)
	case proxy.Begun:
		if errors.Is(t.Err, context.Canceled) {
			c.status = statusClientLeft
		}
		// Half an answer must not look whole.
		panic(http.ErrAbortHandler)
	}
	c.fail(t)
	return false
}

// another waits for another pod, after a try that no handler had.
func (c *call) another(cause string) error {
	if err := c.lane.wait(c.try.Context(), &c.claim); err != nil {
		return err
	}
	c.lane.done.count(familyRepeats, cause)
	return nil
}

// passOn ends a call that pods refused until its time was over: with their
// last word.
func (c *call) passOn(t *proxy.TryError) {
	if c.r.Context().Err() != nil || c.try.Context().Err() != nil {
		c.left()
	}
	c.passed = true
	c.try.Pass(t.Answer)
}

// repeat gives a request that a handler may have begun to another pod, if it
// does no harm and there are not too many of them.
func (c *call) repeat(t *proxy.TryError) (again bool) {
	c.sends++
	c.begun++
	why := ""
	switch {
	case c.claim.own:
		why = "this was one attempt" // which the queue counts, and repeats
	case t.Final:
		why = "it cannot be sent again"
	case !proxy.Idempotent(c.r.Method):
		why = "a " + c.r.Method + " is not repeated, for it may have had an effect"
	case c.begun >= maxTries:
		why = fmt.Sprintf("it was tried %d times", c.begun)
	case !c.lane.spend():
		why = "too many calls are being repeated already"
	}
	if why == "" {
		err := c.another("cut")
		if err == nil {
			return true
		}
		c.fail(err)
		return false
	}
	status := http.StatusBadGateway
	if errors.Is(t.Err, context.DeadlineExceeded) {
		status = http.StatusGatewayTimeout
	}
	c.refuse(&refusal{status, "cut", fmt.Sprintf("function %s: the connection to the pod ended before an answer began; %s", c.lane.ref, why), 0})
	return false
}

// fail ends a call with what an error of the gateway's own, or of the client's
// body, says.
func (c *call) fail(err error) {
	var own *refusal
	var body *invoke.RequestError
	switch {
	case errors.As(err, &own):
		c.refuse(own)
	case errors.Is(err, invoke.ErrBodyTooLarge):
		c.refuse(&refusal{http.StatusRequestEntityTooLarge, "body", fmt.Sprintf("the request body is larger than the %d bytes that weir takes (WEIR_MAX_BODY)", c.g.cfg.MaxBody), 0})
	case errors.As(err, &body):
		c.refuse(&refusal{body.Status, "body", http.StatusText(body.Status) + ": " + body.Error(), 0})
	case errors.Is(err, context.Canceled), c.try.Context().Err() != nil:
		c.left()
	default:
		c.g.cfg.Log.Error("call not answered", "function", c.lane.ref.String(), "call_id", c.id, "error", err)
		c.refuse(&refusal{http.StatusBadGateway, "other", "function " + c.lane.ref.String() + " could not be called; weir's log says more", 0})
	}
}

// left ends a call whose client left, by a panic that ends the connection. One
// that has closed only its own side, which cannot be told from one that left,
// would otherwise get the empty 200 of a handler that returns.
func (c *call) left() {
	c.status = statusClientLeft
	panic(http.ErrAbortHandler)
}

// refuse writes an answer of the gateway's own.
func (c *call) refuse(why *refusal) {
	c.status, c.own = why.status, why
	c.lane.done.count(familyRefusals, why.reason)
	if why.status == http.StatusServiceUnavailable && why != errStopping {
		c.lane.tell(why)
	}
	h := c.w.Header()
	c.mark(h)
	if why.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(why.retryAfter))
	}
	c.try.Own()
	http.Error(c.w, why.text, why.status)
}

// end counts and logs the call, and gives back what it held.
func (c *call) end() {
	c.try.Close()
	took := time.Since(c.start)
	status := c.status
	if status == 0 {
		// The writer panicked before there was an answer.
		status = statusClientLeft
	}
	c.lane.exit(status, took)
	c.log(status, took)
}

func (c *call) log(status int, took time.Duration) {
	log, level := c.g.cfg.Log, c.g.cfg.AccessLevel
	if !log.Enabled(context.Background(), level) {
		return
	}
	path := c.r.RequestURI
	if len(path) > maxLoggedPath {
		path = path[:maxLoggedPath] + "…"
	}
	log.LogAttrs(context.Background(), level, "call",
		slog.String("function", c.lane.ref.String()), slog.String("method", c.r.Method), slog.String("path", path),
		slog.Int("status", status), slog.Duration("took", took), slog.Duration("held", c.held),
		slog.Int("tries", c.sends+1), slog.String("call_id", c.id))
}

// knownReason is a watchdog's reason as a label.
func knownReason(reason string) string {
	switch reason {
	case contract.RejectInflight, contract.RejectQueue, contract.RejectDraining,
		contract.RejectHandler, contract.RejectMemory, contract.RejectFds, contract.RejectPids, contract.RejectDisk:
		return reason
	}
	return "other"
}
