package watchdog

import (
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listener is a TCP listener that can end without losing anybody: a plain
// Close resets the connections that the kernel has completed and nobody has
// accepted yet. Finish accepts those first.
type listener struct {
	*net.TCPListener
	finishing atomic.Bool
	// finished is closed when, after finish, everything that waited is
	// accepted and the port is given back.
	finished chan struct{}
	once     sync.Once
}

func listen(address string, port int) (*listener, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	return &listener{TCPListener: l.(*net.TCPListener), finished: make(chan struct{})}, nil
}

func (l *listener) port() int { return l.Addr().(*net.TCPAddr).Port }

// finish makes Accept return what already waits and then net.ErrClosed.
func (l *listener) finish() {
	l.finishing.Store(true)
	_ = l.SetDeadline(time.Unix(1, 0)) // wakes a blocked Accept
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	if !l.finishing.Load() {
		conn, err := l.AcceptTCP()
		if err == nil {
			return accepted(conn), nil
		}
		if !l.finishing.Load() {
			return nil, err
		}
	}
	conn, err := l.acceptWaiting()
	if err != nil {
		_ = l.Close()
		l.once.Do(func() { close(l.finished) })
		return nil, net.ErrClosed
	}
	return accepted(conn), nil
}

func accepted(conn *net.TCPConn) *connection {
	return &connection{TCPConn: conn, since: time.Now()}
}

// acceptWaiting takes one connection from the kernel's queue without waiting
// for one, which the deadline keeps net's own Accept from doing.
func (l *listener) acceptWaiting() (*net.TCPConn, error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, acceptErr := -1, error(nil)
	err = raw.Control(func(listening uintptr) {
		for {
			fd, _, acceptErr = unix.Accept4(int(listening), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if acceptErr != syscall.EINTR && acceptErr != syscall.ECONNABORTED {
				return
			}
		}
	})
	if err != nil {
		return nil, err
	}
	if acceptErr != nil {
		return nil, acceptErr
	}
	file := os.NewFile(uintptr(fd), "accepted")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}
