package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// load is one measurement: a fixed number of kept connections, each with one
// request outstanding, driven from one thread by epoll. Generator, server and
// handler share the cores, so the generator has to be the cheapest of them:
// two system calls for a request, no goroutines, no allocation.
type load struct {
	addr    string
	conns   int
	request []byte
	// warm is driven but not counted, before time.
	warm, time time.Duration
	// pause is how long a connection waits, on average, after an answer that
	// is not 2xx: between half and one and a half times that, since clients
	// that all come back at one moment are a burst and no load.
	pause time.Duration
	// pid is the process whose CPU time is counted; 0 for none.
	pid int
}

// result is what a load saw between the end of warm and the end of time.
type result struct {
	good, refused, failed int
	elapsed               time.Duration
	cpu                   time.Duration
	latencies             []time.Duration // of good answers, sorted
	refusals              []time.Duration // how long each took, sorted
}

func (r result) rate() float64 { return float64(r.good) / r.elapsed.Seconds() }

// cpuPerAnswer is in microseconds.
func (r result) cpuPerAnswer() float64 {
	return float64(r.cpu.Nanoseconds()) / 1e3 / float64(max(1, r.good+r.refused))
}

// p50 is that of good answers, in microseconds.
func (r result) p50() float64 { return micros(r.latencies, 0.5) }

// refusalP99 is what 99 of 100 refusals take at most, in milliseconds.
func (r result) refusalP99() float64 { return micros(r.refusals, 0.99) / 1e3 }

// micros is the share q of sorted times, 0 when there are none.
func micros(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[int(q*float64(len(sorted)-1)+0.5)].Nanoseconds()) / 1e3
}

// maxAnswer bounds one answer, head and body.
const maxAnswer = 64 << 10

type client struct {
	fd   int
	buf  []byte
	n    int
	sent time.Time
}

type driver struct {
	load
	to      unix.Sockaddr
	epoll   int
	clients []client
	// paused holds the clients that wait for their pause to end, in order.
	paused   []wake
	random   *rand.Rand
	counting bool
	result   result
}

type wake struct {
	at     time.Time
	client int
}

// run drives l and reports what it saw. It fails when the server cannot be
// reached or answers something that is not HTTP; a connection that the server
// closes between answers is opened again and counted in failed.
func (l load) run(ctx context.Context) (result, error) {
	to, err := sockaddr(l.addr)
	if err != nil {
		return result{}, err
	}
	d := &driver{load: l, to: to, random: rand.New(rand.NewPCG(1, 2))}
	if d.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return result{}, fmt.Errorf("epoll: %w", err)
	}
	defer unix.Close(d.epoll)
	d.clients = make([]client, l.conns)
	for i := range d.clients {
		d.clients[i] = client{fd: -1, buf: make([]byte, maxAnswer)}
	}
	defer func() {
		for i := range d.clients {
			if d.clients[i].fd >= 0 {
				unix.Close(d.clients[i].fd)
			}
		}
	}()
	for i := range d.clients {
		if err := d.open(i); err != nil {
			return result{}, err
		}
	}
	if err := d.loop(ctx); err != nil {
		return result{}, err
	}
	slices.Sort(d.result.latencies)
	slices.Sort(d.result.refusals)
	return d.result, nil
}

func (d *driver) loop(ctx context.Context) error {
	began := time.Now()
	var cpu time.Duration
	events := make([]unix.EpollEvent, d.conns)
	d.result.latencies = make([]time.Duration, 0, 1<<17)
	d.result.refusals = make([]time.Duration, 0, 1<<17)
	for {
		n, err := d.wait(events)
		if err != nil {
			return fmt.Errorf("epoll: %w", err)
		}
		for _, event := range events[:max(n, 0)] {
			if err := d.read(int(event.Fd)); err != nil {
				return err
			}
		}
		now := time.Now()
		for len(d.paused) > 0 && !now.Before(d.paused[0].at) {
			next := d.paused[0].client
			d.paused = slices.Delete(d.paused, 0, 1)
			if err := d.send(next); err != nil {
				return err
			}
		}
		switch since := now.Sub(began); {
		case !d.counting && since >= d.warm:
			d.counting, began, d.warm = true, now, 0
			if cpu, err = processCPU(d.pid); err != nil {
				return err
			}
		case d.counting && since >= d.time:
			after, err := processCPU(d.pid)
			d.result.elapsed, d.result.cpu = since, after-cpu
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// wait returns what is ready, at the latest when the next pause ends or after
// so short a time that the end of the measurement is not missed. Epoll itself
// counts in milliseconds, which would make one burst of all pauses that end in
// the same one.
func (d *driver) wait(events []unix.EpollEvent) (int, error) {
	const most = 10 * time.Millisecond
	left := most
	if len(d.paused) > 0 {
		left = min(left, max(0, time.Until(d.paused[0].at)))
	}
	timeout := unix.NsecToTimespec(left.Nanoseconds())
	ready := []unix.PollFd{{Fd: int32(d.epoll), Events: unix.POLLIN}}
	n, err := unix.Ppoll(ready, &timeout, nil)
	if n > 0 {
		n, err = unix.EpollWait(d.epoll, events, 0)
	}
	if err == unix.EINTR {
		return 0, nil
	}
	return n, err
}

// rest pauses client i.
func (d *driver) rest(i int) {
	w := wake{time.Now().Add(d.pause/2 + time.Duration(d.random.Int64N(int64(d.pause)))), i}
	at, _ := slices.BinarySearchFunc(d.paused, w, func(a, b wake) int { return a.at.Compare(b.at) })
	d.paused = slices.Insert(d.paused, at, w)
}

func (d *driver) open(i int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	d.clients[i].fd, d.clients[i].n = fd, 0
	if err := unix.Connect(fd, d.to); err != nil {
		return fmt.Errorf("connection to %s: %w", d.addr, err)
	}
	if err := errors.Join(
		unix.SetNonblock(fd, true),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.EpollCtl(d.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}),
	); err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	return d.send(i)
}

func (d *driver) reopen(i int) error {
	d.result.failed++
	unix.Close(d.clients[i].fd)
	return d.open(i)
}

// send writes the request. Requests are smaller than an empty socket buffer,
// so a short write means a server that went away.
func (d *driver) send(i int) error {
	c := &d.clients[i]
	c.sent, c.n = time.Now(), 0
	if n, err := unix.Write(c.fd, d.request); err != nil || n < len(d.request) {
		return d.reopen(i)
	}
	return nil
}

func (d *driver) read(i int) error {
	c := &d.clients[i]
	n, err := unix.Read(c.fd, c.buf[c.n:])
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return nil
	case err != nil || n == 0:
		return d.reopen(i)
	}
	c.n += n
	a, err := parseAnswer(c.buf[:c.n])
	if err == errShort && c.n < len(c.buf) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("answer of %s: %w", d.addr, err)
	}
	if d.counting {
		d.count(a.status, time.Since(c.sent))
	}
	if a.close {
		unix.Close(c.fd)
		return d.open(i)
	}
	if a.status/100 != 2 && d.pause > 0 {
		d.rest(i)
		return nil
	}
	return d.send(i)
}

func (d *driver) count(status int, took time.Duration) {
	switch {
	case status/100 == 2:
		d.result.good++
		d.result.latencies = append(d.result.latencies, took)
	case status == 429 || status == 503:
		d.result.refused++
		d.result.refusals = append(d.result.refusals, took)
	default:
		d.result.failed++
	}
}

// request is the bytes of a request, with a body when there is one.
func request(method, path, body string) []byte {
	head := method + " " + path + " HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nAccept: */*\r\n"
	if body != "" {
		head += fmt.Sprintf("Content-Type: text/plain\r\nContent-Length: %d\r\n", len(body))
	}
	return []byte(head + "\r\n" + body)
}

// sockaddr reads an IPv4 address and port.
func sockaddr(addr string) (unix.Sockaddr, error) {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}, nil
}

// freeAddr is a loopback address that nobody listens on now.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
