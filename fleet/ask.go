package fleet

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/weir-run/weir/contract"
)

// What a stranger at a pod's address can make a probe read.
const (
	maxAnswerHead = 8 << 10
	maxAnswerBody = 256
	// interimAnswers are 1xx ones before the answer.
	interimAnswers = 5
)

// question is one probe to be done.
type question struct {
	addr    string
	timeout time.Duration
	// connect: only see whether somebody is there.
	connect bool
	// conn is a connection that was kept from the last probe, or nil; keep
	// asks for this one's to be kept.
	conn *conn
	keep bool
}

// kind is how a probe ended.
type kind uint8

const (
	unasked  kind = iota // for want of something on this side
	nobody               // refused, unreachable, or no connection in time
	silence              // connected, and no answer
	open                 // connected, and no question asked
	garbage              // what came is not HTTP
	answered             // an answer
)

// outcome is what a probe found.
type outcome struct {
	kind   kind
	answer answer // if answered
	slow   bool   // the time ran out
	conn   *conn  // kept for the next probe
	err    error  // why it was not asked, or nobody was there
	// misses counts probes in a row that ran out of time or got no answer,
	// this one among them.
	misses uint8
}

// answer is what /_/ready said.
type answer struct {
	status int
	// watchdog: it bears the watchdog's own headers, readable.
	watchdog              bool
	maxInflight, maxQueue int
	body                  string
}

// conn is a connection with what has been read from it and not used.
type conn struct {
	net.Conn
	in *bufio.Reader
}

// dialer tries one address once: pods have no second one, and a probe is too
// short for keep-alive packets.
var dialer = net.Dialer{KeepAlive: -1, FallbackDelay: -1}

// ourFaults say nothing of the pod: out of descriptors, of ports, of memory.
// Were they taken for its absence, weir would lose every pod at once.
var ourFaults = []error{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM}

// askPod does what q says. A kept connection that turns out to be closed is
// replaced by a new one.
func askPod(ctx context.Context, q *question) outcome {
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	if q.conn != nil {
		if q.connect {
			_ = q.conn.Close()
		} else if out := exchange(ctx, q.conn, q); out.kind == answered || out.slow {
			return out
		}
	}
	raw, err := dialer.DialContext(ctx, "tcp", q.addr)
	if err != nil {
		for _, ours := range ourFaults {
			if errors.Is(err, ours) {
				return outcome{err: err}
			}
		}
		return outcome{kind: nobody, err: err, slow: ctx.Err() != nil || isTimeout(err)}
	}
	if q.connect {
		_ = raw.Close()
		return outcome{kind: open}
	}
	return exchange(ctx, &conn{Conn: raw}, q)
}

// exchange asks over c, and closes it unless it is kept.
func exchange(ctx context.Context, c *conn, q *question) (out outcome) {
	if deadline, bounded := ctx.Deadline(); bounded {
		_ = c.SetDeadline(deadline) // an error shows at the write
	}
	// An end that comes before the deadline is Run's.
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	out.kind = silence
	again := false
	defer func() {
		if stop() && again {
			out.conn = c
		} else {
			_ = c.Close()
		}
	}()
	err := c.ask(q)
	if err == nil {
		if c.in == nil {
			c.in = bufio.NewReaderSize(nil, 1<<10)
		}
		from := &source{r: c.Conn, left: maxAnswerHead + maxAnswerBody}
		c.in.Reset(from)
		out.answer, again, err = readAnswer(c.in, from)
		switch {
		case err == nil:
			out.kind = answered
		case errors.Is(err, errGarbage):
			out.kind, err = garbage, nil
		}
	}
	out.slow = err != nil && isTimeout(err)
	again = again && q.keep && out.answer.watchdog
	return out
}

func (c *conn) ask(q *question) error {
	var b [192]byte
	ask := append(b[:0], "GET "+contract.ReadyPath+" HTTP/1.1\r\nHost: "...)
	ask = append(ask, q.addr...)
	ask = append(ask, "\r\nUser-Agent: weir\r\n"...)
	if !q.keep {
		ask = append(ask, "Connection: close\r\n"...)
	}
	_, err := c.Write(append(ask, "\r\n"...))
	return err
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

// errGarbage: what was read is not an answer in HTTP.
var errGarbage = errors.New("not an HTTP answer")

// readRequest is what http.ReadResponse is told that it reads the answer to.
var readRequest = &http.Request{Method: http.MethodGet}

// source is what an answer is read from, up to a bound. It keeps the error that
// ended it: what parses an answer hides it behind one of its own.
type source struct {
	r    io.Reader
	left int
	err  error
}

func (s *source) Read(p []byte) (int, error) {
	if s.left <= 0 {
		return 0, errGarbage // nobody says so much to a probe
	}
	n, err := s.r.Read(p[:min(len(p), s.left)])
	s.left -= n
	if err != nil {
		s.err = err
	}
	return n, err
}

// readAnswer reads one answer from in, which reads from. again says that the
// connection can be used for another. The body is read of a watchdog's alone,
// and of its beginning what is kept. Any error but errGarbage is the source's:
// no whole answer came.
func readAnswer(in *bufio.Reader, from *source) (a answer, again bool, err error) {
	const proto = "HTTP/"
	for n := range len(proto) { // byte by byte: a stranger may wait after the first
		head, err := in.Peek(n + 1)
		if err != nil {
			return a, false, err
		}
		if string(head) != proto[:n+1] {
			return a, false, errGarbage
		}
	}
	var res *http.Response
	for range interimAnswers {
		res, err = http.ReadResponse(in, readRequest)
		if err != nil || res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
			break
		}
	}
	if err != nil && from.err != nil {
		return a, false, from.err
	} else if err != nil {
		return a, false, errGarbage
	}
	if res.StatusCode < 200 {
		return a, false, errGarbage
	}
	a.status = res.StatusCode
	a.maxInflight, a.maxQueue, a.watchdog = limits(res.Header)
	if !a.watchdog {
		return a, false, nil
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswerBody))
	if err != nil && from.err == nil {
		return answer{}, false, errGarbage
	} else if err != nil {
		return answer{}, false, from.err
	}
	rest, err := res.Body.Read(make([]byte, 1))
	a.body = string(bytes.TrimSpace(body))
	return a, rest == 0 && errors.Is(err, io.EOF) && !res.Close && in.Buffered() == 0, nil
}

// limits reads what a watchdog says of itself; ok is false if it is none.
func limits(h http.Header) (inflight, queue int, ok bool) {
	if len(h.Values(contract.HeaderMaxInflight)) != 1 || len(h.Values(contract.HeaderMaxQueue)) > 1 {
		return 0, 0, false
	}
	inflight, ok = limit(h.Get(contract.HeaderMaxInflight))
	if said := h.Get(contract.HeaderMaxQueue); said != "" && ok {
		queue, ok = limit(said)
	}
	if !ok {
		return 0, 0, false
	}
	return inflight, queue, true
}

// limit reads a number of requests: digits alone, at most nine, so that it
// fits every int and the sum of two does.
func limit(s string) (int, bool) {
	if len(s) > 9 {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 31)
	return int(n), err == nil
}
