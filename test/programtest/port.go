package programtest

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
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
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			_ = claim.Close()
			continue
		}
		_ = l.Close()
		t.Cleanup(func() { _ = claim.Close() })
		return port
	}
	t.Fatal("no free port")
	return 0
}

// FreeAddr is a FreePort of this host.
func FreeAddr(t testing.TB) string {
	t.Helper()
	return address(FreePort(t))
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
