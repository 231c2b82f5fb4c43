package programtest

import (
	"net"
	"os/exec"
	"strconv"
	"sync"
	"testing"
)

// A child that is about to begin has a copy of every socket: a port that was
// tried meanwhile must not be returned while that copy is open.
func TestFreePortBesideForks(t *testing.T) {
	var forks sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		forks.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = exec.Command("true").Run()
				}
			}
		})
	}
	for range 300 {
		l, err := net.Listen("tcp", ":"+strconv.Itoa(FreePort(t)))
		if err != nil {
			t.Error(err)
			break
		}
		_ = l.Close()
	}
	close(stop)
	forks.Wait()
}

func TestFreePortListensNowhere(t *testing.T) {
	for _, address := range []string{"", "127.0.0.1", "[::1]", "0.0.0.0"} {
		next := 1 + int(nextPort.Load())
		l, err := net.Listen("tcp", address+":"+strconv.Itoa(firstPort+next%(lastPort-firstPort)))
		if err != nil {
			t.Log(err) // no IPv6, or somebody has it
			continue
		}
		if port := FreePort(t); port == l.Addr().(*net.TCPAddr).Port {
			t.Errorf("port %d is free, and %v listens there", port, l.Addr())
		}
		_ = l.Close()
	}
}
