// Package local runs functions as processes of this machine. A stack file, in
// the form that faas-cli knows, says which there are; each replica is a real
// fwatchdog on ports of its own, and all of them are children of a keeper: a
// small process that ends everything when weir is gone, however weir died.
//
// Everything starts at zero replicas. What is to have more, for it has no
// weir/zero, is scaled there by the autoscaler when that has begun, called or
// not. Being in the stack marks a function as weir's own, so that the defaults
// are weir's; settings in OpenFaaS's and SlimFaas's names are read as well.
package local

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/watchdog/logs"
)

// DefaultMaxReplicas bounds the processes of one machine where Config does
// not: a laptop that is asked for more should be asked twice.
const DefaultMaxReplicas = 64

// Config is everything a Provider is told.
type Config struct {
	// Stack is the path of the stack file. Its folder is the working folder
	// of the replicas, so that commands may be relative to it.
	Stack string
	// Namespace is that of functions that name none.
	Namespace string
	// Fwatchdog is the program that each replica runs.
	Fwatchdog string
	// Keeper is a command that calls Keep with its last argument and exits
	// with what that returns; the argument is added to it.
	Keeper []string
	// Environ is weir's environment, of which replicas get PATH, HOME, LANG
	// and TZ.
	Environ []string
	// TempDir is where a folder for the replicas is made, /tmp if empty.
	TempDir string
	// MaxReplicas bounds the replicas of all functions together, 0 is
	// DefaultMaxReplicas. A rolling change may add one for each function.
	MaxReplicas int

	Log *slog.Logger
	// Output takes what the replicas write, each line whole and with the
	// replica's name before it. Nil drops it.
	Output io.Writer
}

// Provider is safe for use by many goroutines.
type Provider struct {
	cfg       Config
	id        string // differs at each start of weir
	folder    string // of the stack file
	fwatchdog string
	ports     *portPool
	out       io.Writer
	replicas  sync.WaitGroup
	over      chan struct{} // closed when Run is told to end

	keepers sync.Mutex
	keeper  *keeper
	former  []*keeper // died; their leftovers are being ended

	mu        sync.Mutex
	functions map[function.Ref]*workload
	notes     []string
	fleet     *fleet.Fleet // from Run on
	serial    uint64
	asked     int  // replicas of all functions
	leads     bool // Run has begun and not ended
}

// New reads the stack file. The error names all that is wrong with it, one a
// line with file and line.
func New(cfg Config) (*Provider, error) {
	if cfg.MaxReplicas <= 0 {
		cfg.MaxReplicas = DefaultMaxReplicas
	}
	if cfg.TempDir == "" {
		cfg.TempDir = "/tmp"
	}
	if cfg.Output == nil {
		cfg.Output = io.Discard
	}
	s, err := readStack(cfg.Stack, cfg.Namespace)
	if err != nil {
		return nil, err
	}
	folder, err := filepath.Abs(filepath.Dir(cfg.Stack))
	if err != nil {
		return nil, fmt.Errorf("folder of the stack file: %w", err)
	}
	fwatchdog, err := filepath.Abs(cfg.Fwatchdog)
	if err != nil || cfg.Fwatchdog == "" {
		return nil, errors.Join(errors.New("no path of the fwatchdog program"), err)
	}
	random := make([]byte, 4)
	_, _ = rand.Read(random) // never fails
	p := &Provider{
		cfg: cfg, id: hex.EncodeToString(random), folder: folder, fwatchdog: fwatchdog,
		ports: newPortPool(), out: io.Discard, functions: map[function.Ref]*workload{}, notes: s.notes,
		over: make(chan struct{}),
	}
	for _, d := range s.functions {
		p.add(d)
	}
	return p, nil
}

func (p *Provider) add(d *definition) *workload {
	w := &workload{p: p, def: d, created: time.Now()}
	w.revise()
	p.functions[d.ref] = w
	return w
}

// Run puts all functions into f and serves until ctx ends. Then every replica
// is told to drain, and Run returns when nothing of them is left. Its error
// says that the keeper cannot be started.
func (p *Provider) Run(ctx context.Context, f *fleet.Fleet) error {
	if ctx.Err() != nil {
		return nil
	}
	out := logs.New(p.cfg.Output)
	defer func() { _ = out.Close() }() // nobody is left to tell
	clearLeft(p.cfg.TempDir, p.cfg.Log)
	p.out = out
	if _, err := p.keeping(); err != nil {
		return fmt.Errorf("keeper of the replicas: %w", err)
	}
	p.mu.Lock()
	p.fleet, p.leads = f, true
	for _, note := range p.notes {
		p.cfg.Log.Info("stack file: "+note, "file", p.cfg.Stack)
	}
	for _, w := range p.functions {
		p.tellFaults(w)
		w.publish()
	}
	p.mu.Unlock()
	f.Synced()

	<-ctx.Done()
	p.mu.Lock()
	p.leads = false
	close(p.over)
	for _, w := range p.functions {
		for len(w.live) > 0 {
			w.end(w.live[0])
		}
	}
	p.mu.Unlock()
	p.replicas.Wait()
	p.closeKeepers()
	return nil
}

// keeping is the keeper that runs, a new one where the last has died.
func (p *Provider) keeping() (*keeper, error) {
	p.keepers.Lock()
	defer p.keepers.Unlock()
	if p.keeper != nil && p.keeper.alive() {
		return p.keeper, nil
	}
	if p.keeper != nil {
		p.former = append(p.former, p.keeper)
		p.keeper = nil
	}
	k, err := startKeeper(p.cfg.Keeper, p.cfg.TempDir, p.out, p.cfg.Log)
	if err != nil {
		return nil, err
	}
	p.keeper = k
	return k, nil
}

func (p *Provider) closeKeepers() {
	p.keepers.Lock()
	defer p.keepers.Unlock()
	if p.keeper != nil {
		p.keeper.close()
	}
	for _, k := range p.former {
		<-k.lost
	}
}

// Leads says whether this weir decides: it is the only one.
func (p *Provider) Leads() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leads
}

// Peers are none.
func (p *Provider) Peers() []string { return nil }

// Event logs. What is no warning is told by who decided it already.
func (p *Provider) Event(ref function.Ref, e function.Event) {
	level := slog.LevelDebug
	if e.Warning {
		level = slog.LevelWarn
	}
	p.cfg.Log.Log(context.Background(), level, e.Message, "function", ref.String(), "event", e.Reason)
}

// find is called with the Provider locked.
func (p *Provider) find(ref function.Ref) (*workload, error) {
	w := p.functions[ref]
	if w == nil {
		return nil, fmt.Errorf("%s: %w in %s", ref, function.ErrNotFound, p.cfg.Stack)
	}
	return w, nil
}

// Wake is of gateway.Provider.
func (p *Provider) Wake(_ context.Context, ref function.Ref, replicas int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	w, err := p.find(ref)
	switch {
	case err != nil:
		return err
	case replicas < 1:
		return fmt.Errorf("wake %s to %d replicas: expected at least 1", ref, replicas)
	case w.def.addr == "" && w.want > 0:
		return nil
	}
	return p.scale(w, replicas)
}

// Scale is of gateway.Provider. It asks for no more than the function's max,
// and for no more than MaxReplicas leave room for; where they leave none the
// error is function.ErrFull.
func (p *Provider) Scale(_ context.Context, ref function.Ref, replicas int, version string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	w, err := p.find(ref)
	switch {
	case err != nil:
		return err
	case replicas < 0 || replicas > math.MaxInt32:
		return fmt.Errorf("scale %s to %d replicas: expected 0 to %d", ref, replicas, math.MaxInt32)
	case version != "" && version != w.versionText():
		return fmt.Errorf("%s: %w", ref, function.ErrConflict)
	}
	return p.scale(w, replicas)
}

func (p *Provider) scale(w *workload, n int) error {
	ref := w.def.ref
	switch {
	case w.def.addr != "":
		return fmt.Errorf("%s runs elsewhere, at %s: %w", ref, w.def.addr, function.ErrFixed)
	case !p.leads:
		return fmt.Errorf("%s: %w: it is not running", ref, function.ErrUnavailable)
	}
	if most := w.def.spec.Max; n > most {
		p.Event(ref, function.Event{Warning: true, Reason: "MaxReached", Message: fmt.Sprintf("%d replicas were asked for, its max is %d", n, most)})
		n = most
	}
	if most := w.want + p.cfg.MaxReplicas - p.asked; n > most && n > w.want {
		message := fmt.Sprintf("%d replicas were asked for, and all functions together may have %d, of which %d are taken", n, p.cfg.MaxReplicas, p.asked)
		if most <= w.want {
			return fmt.Errorf("%s: %w: %s", ref, function.ErrFull, message)
		}
		p.Event(ref, function.Event{Warning: true, Reason: "MachineFull", Message: message})
		n = most
	}
	if n != w.want {
		w.resize(n)
	}
	return nil
}

// Spare takes how busy each replica is, by name, in place of what it was told
// before: the least busy go first.
func (p *Provider) Spare(_ context.Context, ref function.Ref, busy map[string]int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	w, err := p.find(ref)
	if err != nil {
		return err
	}
	w.busy = maps.Clone(busy)
	return nil
}

// uid names the next process.
func (p *Provider) uid() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.nextUID()
}

// nextUID is called with the Provider locked.
func (p *Provider) nextUID() string {
	p.serial++
	return p.id + "-" + strconv.FormatUint(p.serial, 10)
}

// runs notes that another process runs for a replica.
func (p *Provider) runs(r *replica, uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.uid, r.at, r.waits = uid, nil, false
	r.w.publish()
}

// ends notes how a replica's process ended by itself: the next one waits.
func (p *Provider) ends(r *replica, how string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.waits, r.lastExit = true, how
	r.w.publish()
}

// listens notes where a replica's process listens, nil nowhere any more.
func (p *Provider) listens(r *replica, at *ports) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at == nil && r.stopping {
		return // it keeps its address until it is gone
	}
	r.at = at
	r.w.publish()
}

// left notes that nothing of a replica is left.
func (p *Provider) left(r *replica) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := r.w
	for i, other := range w.leaving {
		if other == r {
			w.leaving = append(w.leaving[:i:i], w.leaving[i+1:]...)
			break
		}
	}
	w.publish()
}

func onPort(addr string, port int) string {
	host, _, _ := net.SplitHostPort(addr) // checked when it was read
	return net.JoinHostPort(host, strconv.Itoa(port))
}
