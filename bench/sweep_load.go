package main

import (
	"bytes"
	"container/list"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// openLoad is a load of many clients that do not know of each other: requests
// are due at a rate, at random moments, whatever became of those before them.
// A client whose request is refused does not come back, and one that has
// waited for leave goes away. Latencies count from the moment a request was
// due, so that a generator or a server that is late hides nothing. Like load
// it is one thread on epoll.
type openLoad struct {
	addr    string
	request []byte
	// rate is in requests per second, their gaps exponential.
	rate float64
	// warm is driven but not counted, before time.
	warm, time time.Duration
	// good is the longest time to an answer that is still worth something;
	// leave is when a client stops waiting.
	good, leave time.Duration
	// conns bounds the connections; what is due beyond them is not sent.
	conns int
}

// openResult is what became of the requests that were due within time. Each of
// them is in one count: due is their sum.
type openResult struct {
	due int
	// good and late were answered 2xx; left had no answer when their client
	// went away; failed were answered something else or cut.
	good, late, left, failed int
	// unsent found no connection.
	unsent int
	// refused is by X-Watchdog-Reject.
	refused map[string]int
	elapsed time.Duration
	// goods and refusals are latencies of those answers, admitted those of
	// all that was answered 2xx and of what left, all sorted. lags are how
	// late the generator itself was.
	goods, refusals, admitted, lags []time.Duration
}

func (r openResult) perSecond(n int) float64 { return float64(n) / r.elapsed.Seconds() }

func (r openResult) allRefused() int {
	sum := 0
	for _, n := range r.refused {
		sum += n
	}
	return sum
}

// at is the quantile q of sorted durations in milliseconds, 0 of none.
func at(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[int(q*float64(len(sorted)-1)+0.5)].Nanoseconds()) / 1e6
}

// openAnswer bounds one answer, head and body: thousands of connections have
// such a buffer.
const openAnswer = 4 << 10

// caller is a connection and the one request on it.
type caller struct {
	fd         int
	connecting bool
	counted    bool
	due        time.Time
	deadline   *list.Element // in openDriver.waiting while a request is out
	buf        []byte
	n          int
}

type openDriver struct {
	openLoad
	to      unix.Sockaddr
	epoll   int
	callers []*caller
	idle    []int      // of callers, the one used last at the end
	closed  []int      // of callers, without a connection
	waiting *list.List // of int: callers with a request out, the oldest first
	result  openResult
}

// run drives l until every request that it counts is settled. It fails when
// something answers what is not HTTP; a server that cannot be reached shows in
// failed.
func (l openLoad) run(ctx context.Context) (openResult, error) {
	to, err := sockaddr(l.addr)
	if err != nil {
		return openResult{}, err
	}
	d := &openDriver{openLoad: l, to: to, waiting: list.New()}
	d.result.refused = map[string]int{}
	if d.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return openResult{}, fmt.Errorf("epoll: %w", err)
	}
	defer unix.Close(d.epoll)
	defer func() {
		for _, c := range d.callers {
			if c.fd >= 0 {
				unix.Close(c.fd)
			}
		}
	}()
	if err := d.loop(ctx); err != nil {
		return openResult{}, err
	}
	for _, latencies := range [][]time.Duration{d.result.goods, d.result.refusals, d.result.admitted, d.result.lags} {
		slices.Sort(latencies)
	}
	return d.result, nil
}

func (d *openDriver) loop(ctx context.Context) error {
	random := rand.New(rand.NewPCG(1, 2))
	gap := func() time.Duration { return time.Duration(random.ExpFloat64() / d.rate * float64(time.Second)) }
	began := time.Now()
	counting, end := began.Add(d.warm), began.Add(d.warm+d.time)
	d.result.elapsed = d.time
	events := make([]unix.EpollEvent, 256)
	for next := began.Add(gap()); ; {
		now := time.Now()
		for ; next.Before(end) && !next.After(now); next = next.Add(gap()) {
			if err := d.issue(next, !next.Before(counting)); err != nil {
				return err
			}
		}
		d.leaveAll(now)
		if !next.Before(end) && d.waiting.Len() == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		until := 10 * time.Millisecond
		if next.Before(end) {
			until = min(until, max(0, time.Until(next)))
		}
		n, err := epollWait(d.epoll, events, until)
		if err != nil {
			return fmt.Errorf("epoll: %w", err)
		}
		for _, event := range events[:n] {
			if err := d.ready(int(event.Fd)); err != nil {
				return err
			}
		}
	}
}

// epollWait is EpollWait with a timeout that is not in whole milliseconds,
// which would make bursts of what is due.
func epollWait(epoll int, events []unix.EpollEvent, timeout time.Duration) (int, error) {
	t := unix.NsecToTimespec(timeout.Nanoseconds())
	n, err := unix.Ppoll([]unix.PollFd{{Fd: int32(epoll), Events: unix.POLLIN}}, &t, nil)
	if n > 0 {
		n, err = unix.EpollWait(epoll, events, 0)
	}
	if errors.Is(err, unix.EINTR) {
		return 0, nil
	}
	return max(n, 0), err
}

// issue sends the request that was due, on a kept connection if one is free.
func (d *openDriver) issue(due time.Time, counted bool) error {
	if counted {
		d.result.due++
		d.result.lags = append(d.result.lags, time.Since(due))
	}
	for len(d.idle) > 0 {
		i := d.idle[len(d.idle)-1]
		d.idle = d.idle[:len(d.idle)-1]
		d.begin(i, due, counted)
		if d.write(d.callers[i]) {
			return nil
		}
		d.drop(i) // the server closed it as idle: not this request's fault
	}
	i, ok := d.place()
	if !ok {
		if counted {
			d.result.unsent++
		}
		return nil
	}
	d.begin(i, due, counted)
	return d.open(i)
}

// place is a caller without a connection.
func (d *openDriver) place() (int, bool) {
	if n := len(d.closed); n > 0 {
		i := d.closed[n-1]
		d.closed = d.closed[:n-1]
		return i, true
	}
	if len(d.callers) >= d.conns {
		return 0, false
	}
	d.callers = append(d.callers, &caller{fd: -1, buf: make([]byte, openAnswer)})
	return len(d.callers) - 1, true
}

func (d *openDriver) begin(i int, due time.Time, counted bool) {
	c := d.callers[i]
	c.due, c.counted, c.n = due, counted, 0
	c.deadline = d.waiting.PushBack(i)
}

// open connects caller i and sends its request, at once or once it is
// connected.
func (d *openDriver) open(i int) error {
	c := d.callers[i]
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	c.fd = fd
	err = unix.Connect(fd, d.to)
	c.connecting = errors.Is(err, unix.EINPROGRESS)
	if err != nil && !c.connecting {
		d.fail(i)
		return nil
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}
	if c.connecting {
		event.Events = unix.EPOLLOUT
	}
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		// Who leaves does so by a reset: thousands of connections in
		// TIME_WAIT would use up the ports.
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.EpollCtl(d.epoll, unix.EPOLL_CTL_ADD, fd, &event),
	); err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	if !c.connecting && !d.write(c) {
		d.fail(i)
	}
	return nil
}

// write sends the request, which is smaller than an empty socket buffer.
func (d *openDriver) write(c *caller) bool {
	n, err := unix.Write(c.fd, d.request)
	return err == nil && n == len(d.request)
}

// ready is an event on caller i.
func (d *openDriver) ready(i int) error {
	c := d.callers[i]
	if c.fd < 0 {
		return nil // closed while the event was on its way
	}
	if c.connecting {
		c.connecting = false
		cause, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil || cause != 0 || !d.write(c) {
			d.fail(i)
			return nil
		}
		return unix.EpollCtl(d.epoll, unix.EPOLL_CTL_MOD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)})
	}
	n, err := unix.Read(c.fd, c.buf[c.n:])
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return nil
	case err != nil || n <= 0:
		if at := slices.Index(d.idle, i); at >= 0 {
			d.idle = slices.Delete(d.idle, at, at+1)
			d.drop(i)
			return nil
		}
		d.fail(i)
		return nil
	}
	c.n += n
	a, err := parseAnswer(c.buf[:c.n])
	if errors.Is(err, errShort) && c.n < len(c.buf) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("answer of %s: %w", d.addr, err)
	}
	d.answered(c, a.status)
	d.settle(c)
	if a.close {
		d.drop(i)
		return nil
	}
	d.idle = append(d.idle, i)
	return nil
}

func (d *openDriver) answered(c *caller, status int) {
	if !c.counted {
		return
	}
	took := time.Since(c.due)
	reason := rejectOf(c.buf[:c.n])
	switch {
	case status/100 == 2:
		d.result.admitted = append(d.result.admitted, took)
		if took > d.good {
			d.result.late++
			return
		}
		d.result.good++
		d.result.goods = append(d.result.goods, took)
	case reason != "":
		d.result.refused[reason]++
		d.result.refusals = append(d.result.refusals, took)
	default:
		d.result.failed++
	}
}

var rejectLine = []byte("\r\nX-Watchdog-Reject: ")

// rejectOf is the reason that a refusal gives, empty for other answers.
func rejectOf(answer []byte) string {
	head, _, _ := bytes.Cut(answer, headEnd)
	_, rest, _ := bytes.Cut(head, rejectLine)
	reason, _, _ := bytes.Cut(rest, lineEnd)
	return string(reason)
}

// leaveAll closes the connections of clients that have waited long enough.
func (d *openDriver) leaveAll(now time.Time) {
	for first := d.waiting.Front(); first != nil; first = d.waiting.Front() {
		i := first.Value.(int)
		c := d.callers[i]
		if now.Sub(c.due) < d.leave {
			return
		}
		if c.counted {
			d.result.left++
			d.result.admitted = append(d.result.admitted, d.leave)
		}
		d.drop(i)
	}
}

// fail is a request that was cut, or never got through.
func (d *openDriver) fail(i int) {
	if d.callers[i].counted {
		d.result.failed++
	}
	d.drop(i)
}

// settle takes the request of c out of those that wait.
func (d *openDriver) settle(c *caller) {
	if c.deadline != nil {
		d.waiting.Remove(c.deadline)
		c.deadline = nil
	}
}

// drop closes the connection of caller i.
func (d *openDriver) drop(i int) {
	c := d.callers[i]
	d.settle(c)
	c.connecting = false
	if c.fd >= 0 {
		unix.Close(c.fd)
		c.fd = -1
		d.closed = append(d.closed, i)
	}
}
