package main_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weir-run/weir/queue"
	"github.com/weir-run/weir/test/programtest"
)

// strikeMark in the environment makes the test binary a weir that kills, itself
// or another, at a step of a call's way through its store. It names a file that
// holds the strike, and is gone once that was made.
const strikeMark = "STRIKE"

// strike is one kill.
type strike struct {
	// Step is when: before or after what is done with the store, the Nth time.
	Step string
	N    int
	// Victim is weir, or a process by its number, or the handler or pod whose
	// line is the last of Ledger.
	Victim string
	Pid    int
	Ledger string
	Serial int
}

// The victims.
const (
	victimWeir    = "weir"
	victimNats    = "nats"
	victimPod     = "pod"
	victimHandler = "handler"
)

// steps are all that a store is asked to do for a call, in the order of its
// way. Those of callbacks are other steps than those of calls.
var steps = []string{
	"before put", "after put", // the 202 comes after it
	"after fetch",
	"before save", "after save", // the outcome, or when it is tried again
	"before ack", "after ack",
	"before retry", "after retry",
	"before bury", "after bury",
	"before callback put", "after callback put", "after callback fetch", "before callback ack", "after callback ack",
}

// between is the store as a weir that strikes has it.
func between(s queue.Store) queue.Store { return &striking{Store: s, path: os.Getenv(strikeMark)} }

type striking struct {
	queue.Store
	path string

	mu     sync.Mutex
	serial int
	seen   int
}

// at strikes if it is time to.
func (s *striking) at(step string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, err := os.ReadFile(s.path)
	var now strike
	if err != nil || json.Unmarshal(text, &now) != nil || now.Step != step {
		return
	}
	if now.Serial != s.serial {
		s.serial, s.seen = now.Serial, 0
	}
	if s.seen++; s.seen < now.N {
		return
	}
	_ = os.Remove(s.path)
	switch now.Victim {
	case victimWeir:
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case victimNats:
		_ = syscall.Kill(now.Pid, syscall.SIGKILL)
	default:
		all := readLedger(now.Ledger)
		if len(all) == 0 {
			return
		}
		last := all[len(all)-1]
		pid := last.Pid
		if now.Victim == victimPod {
			pid = last.Parent
		}
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func stepOf(what string, lane queue.Lane) string {
	if lane == queue.Callbacks {
		return "callback " + what
	}
	return what
}

func (s *striking) Put(ctx context.Context, lane queue.Lane, data []byte, key string) (uint64, bool, error) {
	s.at("before " + stepOf("put", lane))
	defer s.at("after " + stepOf("put", lane))
	return s.Store.Put(ctx, lane, data, key)
}

func (s *striking) Fetch(ctx context.Context, lane queue.Lane, n int, wait time.Duration) ([]queue.Delivery, error) {
	all, err := s.Store.Fetch(ctx, lane, n, wait)
	for i := range all {
		all[i] = &strikingDelivery{all[i], s}
		s.at("after " + stepOf("fetch", lane))
	}
	return all, err
}

func (s *striking) Save(ctx context.Context, id queue.ID, record []byte, keep time.Duration) error {
	s.at("before save")
	defer s.at("after save")
	return s.Store.Save(ctx, id, record, keep)
}

func (s *striking) Bury(ctx context.Context, lane queue.Lane, id queue.ID, letter []byte) error {
	s.at("before bury")
	defer s.at("after bury")
	return s.Store.Bury(ctx, lane, id, letter)
}

type strikingDelivery struct {
	queue.Delivery
	s *striking
}

func (d *strikingDelivery) Ack(ctx context.Context) error {
	lane := d.Item().Lane
	d.s.at("before " + stepOf("ack", lane))
	defer d.s.at("after " + stepOf("ack", lane))
	return d.Delivery.Ack(ctx)
}

func (d *strikingDelivery) Retry(ctx context.Context, delay time.Duration) error {
	lane := d.Item().Lane
	d.s.at("before " + stepOf("retry", lane))
	defer d.s.at("after " + stepOf("retry", lane))
	return d.Delivery.Retry(ctx, delay)
}

// striker arms weirs that strike.
type striker struct {
	t      testing.TB
	path   string
	serial int
}

// newStriker makes p, which was not started yet, a weir that strikes.
func newStriker(t testing.TB, p *program) *striker {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	k := &striker{t: t, path: filepath.Join(p.Dir, "strike")}
	p.Binary = self
	p.Env = append(p.Env, strikeMark+"="+k.path)
	return k
}

// arm has the next weir that comes to the step strike.
func (k *striker) arm(s strike) {
	k.t.Helper()
	k.serial++
	s.Serial = k.serial
	text, err := json.Marshal(s)
	if err == nil {
		err = os.WriteFile(k.path+".new", text, 0o644)
	}
	if err == nil {
		err = os.Rename(k.path+".new", k.path)
	}
	if err != nil {
		k.t.Fatal(err)
	}
}

// struck waits until it was made.
func (k *striker) struck(what string) {
	k.t.Helper()
	programtest.Eventually(k.t, what, func() bool {
		_, err := os.Stat(k.path)
		return os.IsNotExist(err)
	})
}
