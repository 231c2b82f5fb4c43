package local

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-run/weir/function"
)

// How a replica is started again whose process ended by itself.
const (
	firstDelay   = time.Second
	longestDelay = 30 * time.Second
	// steadyLife is a life after which an end is taken for a new trouble.
	steadyLife = time.Minute
	// portTries: somebody else taking a port meanwhile is rare, and says
	// nothing of the function.
	portTries = 10
)

// listenWait is how long fwatchdog's word that it listens is waited for before
// the address is given out without it.
const listenWait = time.Second

// errPortTaken says that fwatchdog found one of its ports taken.
var errPortTaken = errors.New("a port was taken meanwhile")

// replica is one place in a function for a process: when that ends by itself
// another one follows it there.
type replica struct {
	w       *workload
	def     *definition
	name    string
	created time.Time
	// stop is closed when no process is to be here any more.
	stop chan struct{}

	// Of the Provider's mutex:
	stopping bool
	uid      string // of the process that runs, else of the last one
	at       *ports // once it listens
	// waits: for the delay after an end. lastExit is that end.
	waits    bool
	lastExit string
}

// run has one process after the other run until stop.
func (r *replica) run() {
	defer r.w.p.left(r)
	var delay time.Duration
	for tries := 1; ; {
		begin := time.Now()
		words, err := r.once()
		if r.stopped() {
			return
		}
		if errors.Is(err, errPortTaken) && tries < portTries {
			tries++
			continue
		}
		tries = 1
		life := time.Since(begin)
		delay = nextDelay(delay, life)
		r.w.p.Event(r.def.ref, function.Event{Warning: true, Reason: "ReplicaEnded",
			Message: fmt.Sprintf("%s: %v after %s; the next one starts in %s%s", r.name, err, life.Round(time.Millisecond), delay, words)})
		r.w.p.ends(r, fmt.Sprintf("%s: %v after %s%s", time.Now().UTC().Format(time.RFC3339), err, life.Round(time.Millisecond), words))
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-r.stop:
			timer.Stop()
			return
		}
	}
}

// nextDelay is how long the start after a life is put off, that one's own start
// having been put off by delay.
func nextDelay(delay, life time.Duration) time.Duration {
	if life >= steadyLife {
		return firstDelay
	}
	return min(max(2*delay, firstDelay), longestDelay)
}

func (r *replica) stopped() bool {
	select {
	case <-r.stop:
		return true
	default:
		return false
	}
}

// once runs one process from its start to its end, and says how it ended, with
// its last words.
func (r *replica) once() (words string, err error) {
	p := r.w.p
	k, err := p.keeping()
	if err != nil {
		return "", fmt.Errorf("start: %w", err)
	}
	at, err := p.ports.take()
	if err != nil {
		return "", fmt.Errorf("start: %w", err)
	}
	defer p.ports.release(at)
	uid := p.uid()
	temp := filepath.Join(k.folder, r.name+"."+uid)
	if err := os.Mkdir(temp, 0o700); err != nil {
		return "", fmt.Errorf("temporary folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(temp) }()

	out := &lines{out: p.out, prefix: r.name + " | "}
	listens := make(chan struct{})
	own := "Listening on port: " + strconv.Itoa(at.function)
	out.heard = func(line string) bool {
		said := strings.Contains(line, own)
		if said {
			close(listens)
		}
		return said
	}
	ends, err := out.pipes()
	if err != nil {
		return "", err
	}
	program := &program{Path: p.fwatchdog, Dir: p.folder, Env: environ(p.cfg.Environ, r.def.environment, at, temp)}
	c, err := k.start(program, ends.stdout, ends.stderr)
	ends.given()
	if err != nil {
		ends.wait()
		return "", fmt.Errorf("start %s in %s: %w", p.fwatchdog, p.folder, err)
	}
	p.runs(r, uid)
	listened := r.watch(c, at, listens)
	ends.wait()
	p.listens(r, nil)
	said := out.words()
	if !listened && c.status.Code == 1 && portTaken(said, at) {
		return "", errPortTaken
	}
	if said != "" {
		words = "; its last words: " + said
	}
	return words, fmt.Errorf("ended with %s", c.status)
}

// watch follows a process to its end, having it end when the replica stops. It
// returns whether the process was heard to listen.
func (r *replica) watch(c *kept, at ports, listens chan struct{}) (listened bool) {
	unheard := time.NewTimer(listenWait)
	defer unheard.Stop()
	late := make(<-chan time.Time)
	stop := r.stop
	for {
		select {
		case <-c.done:
			return listened
		case <-listens:
			listened, listens = true, nil
			r.w.p.listens(r, &at)
		case <-unheard.C:
			r.w.p.listens(r, &at)
		case <-stop:
			stop = nil
			c.signal(unix.SIGTERM)
			grace := time.NewTimer(r.def.grace)
			defer grace.Stop()
			late = grace.C
		case <-late:
			r.w.p.cfg.Log.Warn("replica killed: it has not ended in its time", "function", r.def.ref.String(), "replica", r.name, "grace", r.def.grace)
			c.signal(unix.SIGKILL)
		}
	}
}

// portTaken says whether fwatchdog ended because of a port.
func portTaken(words string, at ports) bool {
	return strings.Contains(words, unix.EADDRINUSE.Error()) &&
		(strings.Contains(words, "port "+strconv.Itoa(at.function)) || strings.Contains(words, "port "+strconv.Itoa(at.metrics)))
}

// pod is called with the Provider locked.
func (r *replica) pod() function.Pod {
	pod := function.Pod{
		Name: r.name, UID: r.uid, Created: r.created, Grace: r.def.grace,
		Stopping: r.stopping, Ready: r.at != nil && !r.stopping, LastExit: r.lastExit,
	}
	if r.waits {
		pod.Reason = "BackOff"
	}
	if r.at != nil {
		pod.Addr, pod.Metrics = loopback(r.at.function), loopback(r.at.metrics)
	}
	return pod
}

// loopbackAddress is where replicas listen: weir is the way to them.
const loopbackAddress = "127.0.0.1"

func loopback(port int) string { return net.JoinHostPort(loopbackAddress, strconv.Itoa(port)) }
