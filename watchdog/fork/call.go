package fork

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/weir-run/weir/invoke"
	"github.com/weir-run/weir/watchdog/process"
)

// buffer is as large as a pipe, by default: one read empties it.
type buffer [64 << 10]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// lateBody is how long the end of an answer waits for the rest of a body nobody
// wants before the connection is given up instead. What the client has
// sent is read within it; one that is still sending takes no next request to a
// connection that is answered already, and so loses none to its end.
const lateBody = 500 * time.Millisecond

// past is a deadline that ends reads and writes at once.
var past = time.Unix(1, 0)

// call is one invocation. Beside the goroutine that made it there are at most
// three: watch, feed, and one that reads standard error.
type call struct {
	h       *Handler
	w       http.ResponseWriter
	r       *http.Request
	control *http.ResponseController

	// The process's input is body, as it comes, or input, or nothing.
	body  io.Reader
	input []byte
	child *process.Child
	// stdin is the end that is written to, nil when nothing is left to write.
	stdin          *os.File
	stdout, stderr *outlet
	helpers        sync.WaitGroup
	fed            chan struct{} // closed when feed has ended; nil without body
	ended          bool          // feed read the body to its end; valid after fed

	// begun is whether a byte of the answer may be out. It belongs to the
	// caller's goroutine, which changes it under mu.
	begun bool
	mu    sync.Mutex
	cause error // why the process was killed, or its answer is none
	// givenUp is whether the rest of the body is not waited for any more.
	givenUp bool
}

func newCall(h *Handler, w http.ResponseWriter, r *http.Request) *call {
	return &call{h: h, w: w, r: r, control: http.NewResponseController(w)}
}

func hasBody(r *http.Request) bool { return r.Body != nil && r.Body != http.NoBody }

// stderrTo is where a process's standard error goes: nowhere, into its
// answer, or line by line to the log.
type stderrTo int

const (
	toNowhere stderrTo = iota
	toAnswer
	toLog
)

func (h *Handler) logStderr() stderrTo {
	if h.Stderr == nil {
		return toNowhere
	}
	return toLog
}

// start makes the pipes, the process and the goroutines around it. When it
// fails nothing is left of them.
func (c *call) start(deadline time.Time, stderr stderrTo) error {
	if !deadline.IsZero() && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	if err := c.r.Context().Err(); err != nil {
		return err
	}
	spec := process.Spec{
		Path: c.h.Command[0], Args: c.h.Command[1:], Env: c.h.environ(c.r),
		KillGroupAtExit: true,
	}
	err := c.connect(&spec, stderr)
	if err == nil {
		c.child, err = c.h.Reaper.Start(spec)
	}
	for _, theirs := range [...]*os.File{spec.Stdin, spec.Stdout, spec.Stderr} {
		if theirs != nil {
			_ = theirs.Close() // twice where two are one
		}
	}
	if err != nil {
		c.close()
		return notStarted(err)
	}
	c.run(deadline)
	return nil
}

// connect makes the pipes.
func (c *call) connect(spec *process.Spec, stderr stderrTo) (err error) {
	if c.body != nil || len(c.input) > 0 {
		if spec.Stdin, c.stdin, err = os.Pipe(); err != nil {
			return err
		}
		if err = c.prefill(); err != nil {
			return err
		}
	}
	if c.stdout, spec.Stdout, err = newOutlet(); err != nil {
		return err
	}
	switch stderr {
	case toAnswer:
		spec.Stderr = spec.Stdout
	case toLog:
		c.stderr, spec.Stderr, err = newOutlet()
	}
	return err
}

// prefill puts as much of the input into the pipe as it holds. Mostly that is
// all, and nobody has to stand by to write.
func (c *call) prefill() error {
	if len(c.input) == 0 {
		return nil
	}
	n, err := writeNow(c.stdin, c.input)
	if err != nil {
		return err
	}
	if c.input = c.input[n:]; len(c.input) == 0 {
		err = c.stdin.Close()
		c.stdin = nil
	}
	return err
}

// run starts the goroutines.
func (c *call) run(deadline time.Time) {
	c.helpers.Go(func() { c.watch(deadline) })
	if c.stderr != nil {
		c.helpers.Go(c.log)
	}
	if len(c.input) > 0 {
		c.helpers.Go(func() {
			_, _ = c.stdin.Write(c.input) // a process need not take it
			_ = c.stdin.Close()
		})
	}
	if c.body == nil {
		return
	}
	// Else net/http takes the body away when the answer begins.
	_ = c.control.EnableFullDuplex()
	c.fed = make(chan struct{})
	go c.feed()
}

// watch kills the process when its time is over or the client has left, and
// ends the reading of its pipes when it is gone.
func (c *call) watch(deadline time.Time) {
	var expired <-chan time.Time
	if !deadline.IsZero() {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-c.child.Done():
	case <-expired:
		c.interrupt(context.DeadlineExceeded)
	case <-c.r.Context().Done():
		c.interrupt(c.r.Context().Err())
	}
	<-c.child.Done()
	c.stdout.end()
	if c.stderr != nil {
		c.stderr.end()
	}
}

// interrupt is stop, for reasons that mean nothing once the process is gone.
func (c *call) interrupt(reason error) {
	select {
	case <-c.child.Done():
	default:
		c.stop(reason)
	}
}

// bodyFault is interrupt for a body that did not come whole. That may be known
// only after the process was killed for it.
func (c *call) bodyFault(reason error) {
	c.mu.Lock()
	killed := c.cause != nil && !c.givenUp
	c.mu.Unlock()
	if killed {
		c.stop(reason)
		return
	}
	c.interrupt(reason)
}

// stop kills the process for a reason. The first one counts, except that
// net/http says that the client is gone before it says that a body came too
// late or is broken.
func (c *call) stop(reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var request *invoke.RequestError
	if c.cause == nil || errors.Is(c.cause, context.Canceled) && errors.As(reason, &request) {
		c.cause = reason
	}
	if c.begun {
		_ = c.control.SetWriteDeadline(past) // whoever writes to the client is freed
	}
	_ = c.child.Kill() // gone is what we want
}

// begin marks the answer as begun, unless the process is being killed.
func (c *call) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun = c.cause == nil
	return c.begun
}

// feed gives the body to the process as it comes, and goes on reading when the
// process does not want it. A body that does not come whole kills the process:
// the end of its input would be taken for the end of the body.
func (c *call) feed() {
	defer close(c.fed)
	defer c.stdin.Close()
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	wanted, total := true, int64(0)
	for {
		n, err := c.body.Read(buf[:])
		if total += int64(n); c.h.MaxBody > 0 && c.h.Mode == Streaming && total > c.h.MaxBody {
			err = invoke.ErrBodyTooLarge
			n = 0
		}
		if n > 0 && wanted {
			if _, werr := c.stdin.Write(buf[:n]); werr != nil {
				wanted = false
				_ = c.stdin.Close()
			}
		}
		if errors.Is(err, io.EOF) {
			c.ended = true
			return
		}
		if err != nil {
			c.bodyFault(invoke.BodyError(c.r, err))
			return
		}
	}
}

// finish waits for the process and for all that was started with it, and says
// how the invocation ended.
func (c *call) finish() error {
	<-c.child.Done()
	if c.fed != nil {
		c.endFeed()
	}
	c.helpers.Wait()
	c.close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return c.cause
	}
	if status := c.child.Status(); status.ExitCode() != 0 {
		return &invoke.ExitError{Text: status.String(), Code: status.ExitCode()}
	}
	return nil
}

// awaitFed waits for the end of a body whose process ended by itself, and for
// the body's own fault, if that is why the client passes for gone.
func (c *call) awaitFed() bool {
	c.mu.Lock()
	cause := c.cause
	c.mu.Unlock()
	patience := time.Duration(0)
	if cause == nil || errors.Is(cause, context.Canceled) {
		patience = lateBody
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.fed:
		return true
	case <-timer.C:
		return false
	}
}

// endFeed ends feed, whichever side it waits for, and the connection with the
// answer when a part of the body is left on it.
func (c *call) endFeed() {
	_ = c.stdin.Close()
	givenUp := !c.awaitFed()
	if givenUp {
		c.mu.Lock()
		c.givenUp = true
		c.mu.Unlock()
		_ = c.control.SetReadDeadline(past)
		<-c.fed
	}
	// Also when it was given up as it ended: net/http, which listens for the
	// client's leaving from there on, takes the deadline for that, and the next
	// request on the connection for one whose client is gone.
	if givenUp || !c.ended {
		invoke.CloseAfterReply(c.w)
	}
}

func (c *call) close() {
	if c.stdin != nil {
		_ = c.stdin.Close()
	}
	if c.stdout != nil {
		_ = c.stdout.Close()
	}
	if c.stderr != nil {
		_ = c.stderr.Close()
	}
}
