package local

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// ports are those of one replica: of the function and its metrics, which
// fwatchdog listens on, and the handler's own.
type ports struct{ function, metrics, handler int }

// Ports are looked for below those that Linux gives to outgoing connections
// (32768 to 60999): a gateway makes thousands of these, and one of them could
// have the port before the replica listens on it.
const (
	lowestPort  = 10000
	highestPort = 29999
)

var errPorts = errors.New("no free ports from " + strconv.Itoa(lowestPort) + " to " + strconv.Itoa(highestPort))

// portPool hands out ports that are free on every address of this machine, and
// none to two replicas. What takes them from outside before the replica
// listens is for the replica to notice.
type portPool struct {
	mu    sync.Mutex
	taken map[int]bool
	next  int
}

func newPortPool() *portPool {
	// At random, so that two weirs of one machine seldom meet.
	return &portPool{taken: map[int]bool{}, next: lowestPort + rand.IntN(highestPort-lowestPort+1)}
}

func (p *portPool) take() (got ports, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := [3]int{}
	for i := range all {
		if all[i] = p.one(); all[i] == 0 {
			p.free(all[:i])
			return ports{}, errPorts
		}
	}
	return ports{all[0], all[1], all[2]}, nil
}

func (p *portPool) release(got ports) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free([]int{got.function, got.metrics, got.handler})
}

func (p *portPool) free(list []int) {
	for _, port := range list {
		delete(p.taken, port)
	}
}

// one returns 0 when none is free.
func (p *portPool) one() int {
	for range highestPort - lowestPort + 1 {
		port := p.next
		if p.next++; p.next > highestPort {
			p.next = lowestPort
		}
		if p.taken[port] {
			continue
		}
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		_ = l.Close()
		p.taken[port] = true
		return port
	}
	return 0
}
