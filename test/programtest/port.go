package programtest

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// nextPort starts at a place of this process's own. Ports are taken below the
// kernel's ephemeral range, so that no outgoing connection can hold one.
var nextPort atomic.Uint32

const firstPort, lastPort = 10000, 32000

// FreePort is a TCP port that nothing listens on. Until the test ends no other
// call returns it, in no process: the name of a socket in the abstract
// namespace is the claim.
func FreePort(t testing.TB) int {
	t.Helper()
	nextPort.CompareAndSwap(0, uint32(os.Getpid()*97%(lastPort-firstPort)+1))
	for range lastPort - firstPort {
		port := firstPort + int(nextPort.Add(1))%(lastPort-firstPort)
		claim, err := net.Listen("unix", fmt.Sprintf("@weir-test-port-%d", port))
		if err != nil {
			continue
		}
		if !isFree(port) {
			_ = claim.Close()
			continue
		}
		t.Cleanup(func() { _ = claim.Close() })
		return port
	}
	t.Fatal("no free port")
	return 0
}

// isFree binds and does not listen: a child that is about to run its program
// has a copy of every socket, and one that listens would hold the port.
func isFree(port int) bool {
	fd, address := socket(port)
	if fd < 0 {
		return false
	}
	defer unix.Close(fd)
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) == nil && unix.Bind(fd, address) == nil
}

// socket is one that no child keeps, and the port at every address.
func socket(port int) (fd int, address unix.Sockaddr) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	address = &unix.SockaddrInet6{Port: port}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
	if err != nil { // no IPv6 here
		address = &unix.SockaddrInet4{Port: port}
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); err != nil {
			return -1, nil
		}
	}
	unix.CloseOnExec(fd)
	return fd, address
}

// FreeAddr is a FreePort of this host.
func FreeAddr(t testing.TB) string {
	t.Helper()
	return address(FreePort(t))
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
