package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/invoke"
)

const (
	// outKeep and inSize are the buffers that a spare exchange keeps; larger
	// ones, for a long head, are dropped after use.
	outKeep = inlineBody + 16<<10 // append rounds up
	inSize  = 8 << 10
	// smallRequest surely fits the buffer of an idle socket, so that its
	// write does not wait.
	smallRequest = 4 << 10
	// unwatched is how long an answer may take before the exchange is tied to
	// the client's presence: most are there by then, and it costs as much as
	// the parsing of the answer.
	unwatched = 20 * time.Millisecond
)

// exchange is one request and its answer. It is reused, never shared.
type exchange struct {
	p           *Proxy
	w           http.ResponseWriter
	r           *http.Request
	ctx         context.Context // ends when the client leaves
	exec, write time.Time
	start       time.Time
	// call is whose try this is, nil in Serve; head bounds the time until the
	// head of its answer.
	call *Call
	head time.Time

	c      *conn
	reused bool  // c carried another request before
	before int64 // what had been written to c before this request
	// unhook ends the watch; nil before it began.
	unhook func() bool

	out  []byte // head of the request and a small body
	tail []byte // a small body that is not in out
	// kind and source of the body; length is -1 for chunks. When source is
	// nil it is r.Body.
	kind    bodyKind
	expect  bool
	upgrade bool
	source  io.Reader
	length  int64
	upload  *upload

	in  reader
	ans answer
	// begun: something of the final answer was handed to w.
	begun bool
}

// spare are the exchanges of all Proxies: a gateway has one for each of many
// pods.
var spare = sync.Pool{New: func() any {
	return &exchange{out: make([]byte, 0, 2<<10), in: reader{buf: make([]byte, inSize)}}
}}

// release gives the exchange back, and its connection up if it still has it.
func (x *exchange) release() {
	x.drop()
	x.in.reset()
	if cap(x.out) > outKeep {
		x.out = make([]byte, 0, 2<<10)
	}
	clear(x.ans.fields)
	*x = exchange{out: x.out[:0], in: x.in, ans: answer{
		fields: x.ans.fields[:0], named: x.ans.named[:0], trailers: x.ans.trailers[:0]}}
	spare.Put(x)
}

// serve is the life of a request: head, body, answer, and the connection back
// into the pool.
func (x *exchange) serve() error {
	if err := x.prepare(); err != nil {
		return err
	}
	err := x.ask()
	if err == nil && x.ans.code == http.StatusSwitchingProtocols {
		return x.tunnel()
	}
	if err == nil {
		err = x.answer()
	}
	if err = x.endUpload(err); err != nil {
		return err
	}
	x.keep()
	return nil
}

// ask sends the request and reads the head of the final answer. A kept
// connection may die under the request without the handler having seen it;
// where the request can be repeated, it is, once, on a fresh one.
func (x *exchange) ask() error {
	var seen error // how the first try ended, where the handler may have seen it
	for {
		if err := x.connect(); err != nil {
			if seen != nil && errors.Is(err, invoke.ErrUnreachable) {
				return seen // that error would say that nothing was seen
			}
			return err
		}
		again, err := x.send()
		if err == nil {
			again, err = x.await()
		}
		if err == nil {
			return nil
		}
		untaken := x.untaken(err)
		err = x.fault(err)
		if !again || !x.reused || !errors.Is(err, invoke.ErrBadAnswer) {
			return err
		}
		if !untaken {
			seen = err
		}
		x.drop()
	}
}

// connect takes a kept connection for the first try, and a fresh one for the
// second.
func (x *exchange) connect() error {
	deadline := x.deadline()
	if err := x.ctx.Err(); err != nil {
		return err
	}
	first := !x.reused
	x.reused = false
	if first {
		x.c = x.p.pool.get(x.start, x.idleLife())
		x.reused = x.c != nil
	}
	if x.c == nil {
		c, err := x.p.dial(x.ctx, deadline)
		if err != nil {
			return err
		}
		x.c = c
	}
	x.in.src, x.before = x.c, x.c.sent
	if x.kind == bodyInline && len(x.out)+len(x.tail) <= smallRequest {
		x.c.SetDeadline(earliest(deadline, x.start.Add(unwatched)))
	} else {
		x.watch()
	}
	return nil
}

// idleLife is how long a connection may have been idle that is used for this.
func (x *exchange) idleLife() time.Duration {
	if x.call != nil && !x.call.Watchdog {
		return min(idleLife, x.p.pool.idleLife())
	}
	return x.p.pool.idleLife()
}

// watch sets the real deadlines, and has the connection broken when the client
// leaves, which ends every wait of this exchange.
func (x *exchange) watch() {
	x.c.SetDeadline(x.deadline())
	x.unhook = context.AfterFunc(x.ctx, x.c.hangUp)
}

// deadline is when the exchange must have ended, or its next part; zero is no
// bound.
func (x *exchange) deadline() time.Time { return earliest(earliest(x.exec, x.write), x.head) }

// late says whether err is only the end of the time without a watch, which
// begins now.
func (x *exchange) late(err error) bool {
	if x.unhook != nil || !timeUp(err) {
		return false
	}
	x.watch()
	return true
}

// fill reads once.
func (x *exchange) fill() error {
	err := x.in.fill()
	if x.late(err) {
		err = x.in.fill()
	}
	return err
}

// send writes what prepare built. again says whether a failure may be
// repeated, since nothing was written.
func (x *exchange) send() (again bool, err error) {
	if len(x.tail) > 0 {
		err = x.c.writeBoth(x.out, x.tail)
	} else {
		var n int
		n, err = x.c.Write(x.out)
		if x.late(err) {
			_, err = x.c.Write(x.out[n:])
		}
	}
	switch {
	case err == nil && x.kind == bodyStreamed && !x.expect:
		x.startUpload()
	case timeUp(err):
		return false, err
	case err != nil && x.c.sent == x.before && x.reused:
		return true, err
	}
	// A handler may answer without reading all and close: the answer counts,
	// if there is one.
	return false, nil
}

// repeatable says whether the request may arrive twice.
func (x *exchange) repeatable() bool {
	return x.in.total == 0 && x.kind == bodyInline && Idempotent(x.r.Method)
}

// await reads up to the head of the final answer.
func (x *exchange) await() (again bool, err error) {
	asked := x.kind != bodyInline && x.expect
	if asked {
		if x.call == nil || !x.call.Watchdog {
			x.c.SetReadDeadline(earliest(x.deadline(), time.Now().Add(continueWait)))
		}
	}
	for {
		err := x.readHead()
		if asked && (err == nil && x.ans.code == http.StatusContinue || x.onlySilent(err)) {
			asked = false
			x.head = time.Time{}
			x.c.SetReadDeadline(x.deadline())
			if err := x.sendAsked(); err != nil {
				return false, err
			}
			continue
		}
		if err != nil {
			return x.repeatable(), err
		}
		switch {
		case x.ans.code == http.StatusSwitchingProtocols:
			if !x.upgrade || x.ans.upgrade == "" || !hasToken(x.r.Header["Upgrade"], x.ans.upgrade) {
				return false, errSwitch
			}
			return false, nil
		case x.ans.code >= 200:
			// The body was not asked for: the connection cannot be used for
			// another request.
			x.ans.keep = x.ans.keep && !asked
			return false, nil
		}
		x.interim()
	}
}

// onlySilent says that the handler has not asked for the body within
// continueWait, while there is time left.
func (x *exchange) onlySilent(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	deadline := x.deadline()
	return deadline.IsZero() || time.Now().Before(deadline)
}

// sendAsked sends the body after Expect: 100-continue.
func (x *exchange) sendAsked() error {
	if x.kind == bodyStreamed {
		x.startUpload()
		return nil
	}
	x.out = x.out[:0]
	if err := x.readInline(); err != nil {
		return err
	}
	if _, err := x.c.Write(x.out); timeUp(err) {
		return err
	}
	return nil
}

// readHead reads one head, interim or final, into ans.
func (x *exchange) readHead() error {
	from := 0
	for {
		b := x.in.buffered()
		n, whole := headEnd(b, from)
		if x.in.heads+n > maxHead {
			return errHeadSize
		}
		if whole {
			x.in.heads += n
			x.in.skip(n)
			return x.ans.parse(string(b[:n]))
		}
		// The empty line may be half here.
		from = max(0, n-3)
		if err := x.fill(); err != nil {
			return err
		}
	}
}

// interim passes a 1xx on, which HTTP/1.0 does not know. 100 is the client's
// own affair with the server in front.
func (x *exchange) interim() {
	if x.ans.code == http.StatusContinue || !x.r.ProtoAtLeast(1, 1) {
		return
	}
	h := x.w.Header()
	x.ans.copyTo(h)
	x.w.WriteHeader(x.ans.code)
	x.ans.removeFrom(h)
}

// answer sends the final head and the body.
func (x *exchange) answer() error {
	h := x.w.Header()
	x.ans.copyTo(h)
	if !x.ans.typed {
		// What the handler did not say is not guessed.
		h["Content-Type"] = nil
	}
	if x.upload != nil && !x.upload.eof.Load() || x.upload == nil && x.call != nil && x.call.unread() {
		// The rest of the upload would be taken for the next request. It also
		// keeps the server from reading that rest before it sends the head.
		h["Connection"] = []string{"close"}
	}
	x.final(h)
	if x.ans.events {
		if x.unhook == nil {
			x.watch()
		}
		x.c.SetDeadline(x.exec)
		// A writer without deadlines keeps none.
		_ = http.NewResponseController(x.w).SetWriteDeadline(x.exec)
	}
	x.announce(h)
	x.begun = true
	x.w.WriteHeader(x.ans.code)
	if x.ans.bodiless(x.r.Method) {
		return nil
	}
	if err := x.copyBody(); err != nil {
		return x.fault(err)
	}
	return nil
}

// final adds to the headers of the answer what is said here.
func (x *exchange) final(h http.Header) {
	if x.call != nil {
		if x.call.Answer != nil {
			x.call.Answer(x.ans.code, h)
		}
		return
	}
	seconds := time.Since(x.start).Seconds()
	h[contract.HeaderDuration] = []string{strconv.FormatFloat(seconds, 'f', 6, 64)}
}

// keep puts the connection back for the next request, if it is clean.
func (x *exchange) keep() {
	if !x.ans.keep || len(x.in.buffered()) > 0 || x.unhook != nil && !x.unhook() {
		return
	}
	c := x.c
	x.c = nil
	x.p.pool.put(c, time.Now())
}

// drop breaks the connection.
func (x *exchange) drop() {
	if x.c != nil {
		if x.unhook != nil {
			x.unhook()
			x.unhook = nil
		}
		x.c.Close()
		x.c = nil
	}
}
