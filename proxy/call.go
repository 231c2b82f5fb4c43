package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/weir-run/weir/invoke"
)

// DefaultKeep is how much of a body a Call keeps: what fits the buffers of a
// socket, so that it goes out in one write that need not wait for the answer.
const DefaultKeep = inlineBody

// Call is one client's request that is handed to upstreams in turn, until one
// of them begins to answer. Only one goroutine may use it at a time, that of
// the request's handler.
//
// A body that is known to have at most Keep bytes is read before the first Try
// and sent with the head. A longer one is announced with Expect: 100-continue,
// and none of it is read from the client before an upstream asks for it: a
// watchdog does that once it has admitted the request. So it is with a body of
// unknown length, but to others than watchdogs that goes at once: it may be a
// conversation. The first Keep bytes of either are kept on their way until an
// answer begins. The request can be tried again until more than that was read.
//
// Nothing bounds the time of an answer that has begun, nor of an upgraded
// connection; both end with the client, or with the upstream.
type Call struct {
	// The fields are set before the first Try. Path, Header, Watchdog and
	// HeaderTimeout may be changed before each.

	// Path is sent in the place of the client's path and query, byte for byte;
	// it begins with a slash. Empty is the client's own.
	Path string
	// Header replaces headers of the client's by canonical name; a name
	// without values is removed. Host and what frames the body stay as they
	// are.
	Header http.Header
	// Keep is how many bytes of the body are kept at most; 0 is DefaultKeep.
	Keep int
	// MaxBody bounds the body in bytes, 0 does not.
	MaxBody int64
	// Kept is told by how many bytes the memory for the body grows, before it
	// does, and shrinks (negative). Its error forbids the growth. A body that
	// is being sent goes on then, and cannot be repeated; else the error is
	// that of ReadAhead or Try, at stage Client. It may be called from another
	// goroutine than the handler's, not at once from two. May be nil.
	Kept func(delta int) error
	// Judge looks at the head of an answer before anything of it reaches the
	// client, and says whether it is passed on. One that is not is the error
	// of Try, at stage Refused. Interim answers (1xx) and upgrades are not
	// judged. Nil passes everything on.
	Judge func(status int, h Fields) (pass bool)
	// Answer may change the headers that go to the client, just before they
	// do. They hold the upstream's, which have replaced those of the same name
	// that the writer had before. May be nil.
	Answer func(status int, h http.Header)
	// Watchdog says that the next upstream is known as a fwatchdog: its
	// X-Watchdog-Reject and X-OpenFaaS-Internal are believed and passed on,
	// while anybody else's are dropped before Judge; and it is waited for
	// until it asks for a long body, which it does once it has admitted the
	// request, while others get it after a second of silence.
	Watchdog bool
	// HeaderTimeout bounds the time from Try to the head of the answer, except
	// while a long body is on its way; 0 does not.
	HeaderTimeout time.Duration

	w   http.ResponseWriter
	r   *http.Request
	ctx context.Context

	leave  context.CancelFunc // of ctx where it is not the request's
	client *invoke.Presence

	looked  bool // ReadAhead was called
	fault   error
	length  int64 // of the body, -1 when it is not known
	kept    []byte
	counted int  // what Kept was told
	ended   bool // the body was read to its end
	// spent: more was read than is kept, or the body is faulty.
	spent bool
	// reading: a Read of the client's body may be under way in an upload.
	reading atomic.Bool
}

// Fields is the header of an answer.
type Fields interface {
	// Get returns the first value of the header with that canonical name.
	Get(name string) string
}

// NewCall makes the Call of a request that a net/http server has read. It must
// be closed before the handler returns.
func NewCall(w http.ResponseWriter, r *http.Request) *Call {
	return &Call{w: w, r: r, ctx: r.Context()}
}

// Context ends when the client leaves. It is the request's own unless, after
// ReadAhead, net/http would not notice; see ConnContext. Whoever has the
// request wait should wait for this one.
func (c *Call) Context() context.Context { return c.ctx }

// Try hands the request to an upstream. When the error is nil the answer is
// complete. Else it is a *TryError; unless its stage is Begun nothing was
// written to the client.
//
// A kept connection that breaks before a byte of the answer is replaced by a
// fresh one, once, where the request was surely not taken or is idempotent,
// and no more than what is kept of its body was sent.
func (c *Call) Try(p *Proxy) error {
	if err := c.ReadAhead(time.Time{}); err != nil {
		return err
	}
	if c.spent {
		return &TryError{Stage: Client, Final: true, Err: errSpent}
	}
	x := newTry(p, c)
	defer x.release()
	stage, err := x.try()
	if err == nil {
		return nil
	}
	t := &TryError{Stage: stage, Err: err, Final: c.spent || malformed(err)}
	if stage == Refused {
		t.Answer = x.w.(*Answer)
	}
	return t
}

var errSpent = errors.New("the body of the request was sent before and is not kept")

// Own must be called before the caller writes an answer of its own: what the
// client still sends is not waited for then, and its connection ends.
func (c *Call) Own() {
	if c.unread() {
		_ = http.NewResponseController(c.w).EnableFullDuplex()
		c.w.Header()["Connection"] = []string{"close"}
	}
}

// Close gives back what is kept. It does not end a connection.
func (c *Call) Close() {
	c.client.Stop()
	if c.leave != nil {
		c.leave()
	}
	c.forget()
	if c.looked && c.unread() {
		// net/http reads what is left of the body, or a part: not for ever.
		_ = http.NewResponseController(c.w).SetReadDeadline(time.Now().Add(lingerTime))
	}
}

// unread reports whether a part of the body may still be on its way.
func (c *Call) unread() bool { return hasBody(c.r) && !c.ended }

func hasBody(r *http.Request) bool {
	return r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0
}

func (c *Call) keep() int {
	if c.Keep > 0 {
		return c.Keep
	}
	return DefaultKeep
}

// newTry makes the exchange of one Try.
func newTry(p *Proxy, c *Call) *exchange {
	x := spare.Get().(*exchange)
	x.p, x.call, x.w, x.r, x.ctx, x.start = p, c, c.w, c.r, c.ctx, time.Now()
	x.ans.trusted = c.Watchdog
	if c.HeaderTimeout > 0 {
		x.head = x.start.Add(c.HeaderTimeout)
	}
	return x
}

// try is the life of the request at this upstream.
func (x *exchange) try() (Stage, error) {
	c := x.call
	if err := x.prepareCall(c.length >= 0 || c.Watchdog || asksFirst(c.r)); err != nil {
		return Client, err
	}
	stage, err := x.attempt()
	if err == nil && x.ans.code == http.StatusExpectationFailed && x.upload == nil && x.expect && !asksFirst(x.r) {
		// It is we who expected something of a server that knows nothing of it.
		x.drop()
		x.in.reset()
		x.reused = false
		if err := x.prepareCall(false); err != nil {
			return Client, err
		}
		stage, err = x.attempt()
	}
	if err == nil && x.ans.code == http.StatusSwitchingProtocols {
		if err = x.tunnel(); err != nil {
			stage = Sent
		}
		return stage, err
	}
	if err == nil && c.Judge != nil && !c.Judge(x.ans.code, &x.ans) {
		return x.refused()
	}
	if err == nil {
		x.headCame()
		if x.upload == nil {
			c.forget()
		}
		err = x.answer()
		stage = Begun
	}
	return x.settle(stage, err)
}

// settle ends the upload and says how the try ended.
func (x *exchange) settle(stage Stage, err error) (Stage, error) {
	err = x.endUpload(err)
	if err == nil {
		x.keep()
		return stage, nil
	}
	var request *invoke.RequestError
	if stage != Begun && (x.ctx.Err() != nil && errors.Is(err, context.Canceled) || errors.As(err, &request)) {
		stage = Client
	}
	return stage, err
}

// attempt sends the request and reads the head of the final answer. The stage
// counts where there is none.
func (x *exchange) attempt() (Stage, error) {
	stage := NotTaken
	for {
		if err := x.connect(); err != nil {
			return stage, err
		}
		_, err := x.send()
		if err == nil {
			_, err = x.await()
		}
		if err == nil {
			return Sent, nil
		}
		untaken := x.untaken(err)
		err = x.fault(err)
		if !untaken {
			// What was sent once may have been seen, however the second ends.
			stage = Sent
		}
		again := untaken || Idempotent(x.r.Method) && x.in.total == 0
		if !again || !x.reused || x.upload != nil || !errors.Is(err, invoke.ErrBadAnswer) {
			return stage, err
		}
		x.drop()
	}
}

// untaken reports whether the upstream surely has nothing of the request: no
// byte of it was written, or the upstream ended the connection without having
// acknowledged one. An end that came before the request was received carries an
// acknowledgement of what came before, and whoever has closed a connection
// answers what comes after with a reset. A reset alone does not count: it may
// outrun an acknowledgement that is being delayed.
func (x *exchange) untaken(err error) bool {
	if x.upload == nil && x.c.sent == x.before {
		return true
	}
	if err != io.EOF || x.in.total > 0 {
		return false
	}
	acked, ok := x.c.acked()
	return ok && acked <= x.before
}

// malformed reports whether an answer was read that is none.
func malformed(err error) bool {
	for _, fault := range []error{errStatusLine, errField, errHeadSize, errLength, errSwitch} {
		if errors.Is(err, fault) {
			return true
		}
	}
	return false
}

// headCame lifts the bound of the time until it did.
func (x *exchange) headCame() {
	if x.head.IsZero() {
		return
	}
	x.head = time.Time{}
	if x.unhook != nil {
		x.c.SetDeadline(x.deadline())
	}
}

// refusalTime bounds the reading of an answer that is not passed on: the
// request waits for it. Without its end the connection cannot be kept.
const refusalTime = time.Second

// refused reads the answer that Judge does not want.
func (x *exchange) refused() (Stage, error) {
	if x.unhook == nil {
		x.watch()
	}
	x.c.SetDeadline(earliest(x.head, time.Now().Add(refusalTime)))
	header := http.Header{}
	x.ans.copyTo(header)
	if !x.ans.typed {
		header["Content-Type"] = nil
	}
	a := &Answer{Status: x.ans.code, header: http.Header{}} // for its trailers
	x.w = a
	if !x.ans.bodiless(x.r.Method) && x.copyBody() != nil {
		x.ans.keep = false
	}
	a.header = header
	x.w = x.call.w // endUpload may say something about the client's connection
	if err := x.endUpload(errRefused); err != errRefused {
		return Client, err
	}
	x.keep()
	x.w = a
	return Refused, errRefused
}
