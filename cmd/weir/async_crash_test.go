package main_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weir-run/weir/queue"
	"github.com/weir-run/weir/test/programtest"
)

// asyncRounds is how many kills of each kind there are: few, or
// ASYNC_ROUNDS.
func asyncRounds(t testing.TB, few int) int {
	t.Helper()
	text := os.Getenv("ASYNC_ROUNDS")
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("ASYNC_ROUNDS=%q: expected a number", text)
	}
	return n
}

// sort is what a call is to come to.
type sort int

const (
	plain    sort = iota // 200 at once
	tried                // 500, then 200
	wrong                // 400, which is not tried again
	hopeless             // 500, until it is given up
	told                 // 200, and a callback
	long                 // 200 a second later
	sorts
)

// sent is a call that was sent, taken or not.
type sent struct {
	n    int
	sort sort
	more string // for its query
	id   string // where it was taken
}

func (c *sent) body() string { return strings.Repeat(fmt.Sprintf("body of %d ", c.n), 1+c.n%40) }

func (c *sent) path() string {
	name, query := "sure", ""
	switch c.sort {
	case tried:
		query = "&status=500,200"
	case wrong:
		query = "&status=400"
	case hopeless:
		name, query = "poor", "&status=500"
	case long:
		query = "&ms=1200"
	}
	return fmt.Sprintf("%s/some/path?n=%d%s%s", name, c.n, query, c.more)
}

// siege sends calls to weirs that are killed, and knows what must have become
// of them.
type siege struct {
	t      testing.TB
	ledger string
	weirs  []*program
	// doors are where calls are sent to: the addresses of the weirs, which do
	// not change when they are started again.
	doors []*program
	// receiver takes callbacks.
	receiver *httptest.Server

	mu       sync.Mutex
	next     int
	all      map[int]*sent
	acked    int
	refused  map[string]int // by what was answered
	received map[string]int // callbacks by call
	stop     chan struct{}
	senders  sync.WaitGroup
}

func newSiege(t testing.TB) *siege {
	t.Helper()
	s := &siege{t: t, ledger: ledgerFile(t), all: map[int]*sent{}, refused: map[string]int{}, received: map[string]int{}, stop: make(chan struct{})}
	s.receiver = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.received[r.Header.Get("X-Call-Id")]++
	}))
	t.Cleanup(s.receiver.Close)
	return s
}

// stack has the functions that calls go to.
func (s *siege) stack(pods int) string {
	bounds := append([]string{fmt.Sprintf(`weir/min: "%d"`, pods), fmt.Sprintf(`weir/max: "%d"`, pods)}, soon...)
	return "functions:\n" + recorder(s.t, "sure", s.ledger, []string{"max_inflight: 20"}, bounds) +
		recorder(s.t, "poor", s.ledger, []string{"max_inflight: 20"}, append([]string{`weir/max: "1"`, `weir/retry-attempts: "2"`}, soon[:2]...))
}

// weir is one that is killed, at an address that it keeps.
func (s *siege) weir(stack string, env ...string) (*program, *striker) {
	s.t.Helper()
	p := &program{programtest.NewLocalWeir(s.t, stack, append([]string{
		"WEIR_LISTEN=" + programtest.FreeAddr(s.t), "WEIR_CALLBACK_ALLOW=127.0.0.1", "WEIR_SHUTDOWN_TIMEOUT=10s",
	}, env...)...), s.t}
	k := newStriker(s.t, p)
	p.Launch().Ready()
	p.keeps()
	s.weirs = append(s.weirs, p)
	s.doors = append(s.doors, &program{&programtest.Weir{URL: p.URL}, s.t})
	return p, k
}

// pause is between two calls of one sender.
const pause = 40 * time.Millisecond

// send sends calls from four clients until the siege ends.
func (s *siege) send() {
	for client := range 4 {
		s.senders.Go(func() {
			for {
				select {
				case <-s.stop:
					return
				case <-time.After(pause):
				}
				s.one(s.doors[client%len(s.doors)], sort(rand.IntN(int(sorts))))
			}
		})
	}
}

// one sends a call. It is taken, or answered with an error, or not at all.
func (s *siege) one(p *program, what sort, more ...string) *sent {
	s.mu.Lock()
	s.next++
	c := &sent{n: s.next, sort: what, more: strings.Join(more, "")}
	s.all[c.n] = c
	s.mu.Unlock()
	var headers []string
	if what == told {
		headers = []string{"X-Callback-Url: " + s.receiver.URL + "/told"}
	}
	id, a, err := p.submit(http.MethodPost, c.path(), c.body(), headers...)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case id != "":
		c.id = id
		s.acked++
	case err != nil:
		s.refused["no answer"]++
	case a.StatusCode == http.StatusServiceUnavailable && a.Header.Get("Retry-After") != "":
		s.refused[a.Status]++
	case a.StatusCode == http.StatusServiceUnavailable && strings.Contains(a.text, "yet"):
		s.refused["not known yet"]++
	default:
		s.t.Errorf("%s: %s %q", c.path(), a.Status, a.text)
	}
	return c
}

// goesOn waits until n more calls were taken.
func (s *siege) goesOn(n int) {
	s.t.Helper()
	taken := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.acked
	}
	before := taken()
	programtest.Eventually(s.t, fmt.Sprintf("%d more calls are taken", n), func() bool { return taken() >= before+n })
}

// runs sends a long call and waits until it runs; last is its line.
func (s *siege) runs() (last entry) {
	s.t.Helper()
	var c *sent
	programtest.Eventually(s.t, "a call is taken", func() bool {
		c = s.one(s.doors[0], long)
		return c.id != ""
	})
	programtest.Eventually(s.t, c.id+" runs", func() bool {
		all := times(readLedger(s.ledger), c.id, began)
		if len(all) > 0 {
			last = all[len(all)-1]
		}
		return len(all) > 0
	})
	return last
}

// over ends the siege, and checks what became of every call that was taken.
func (s *siege) over() {
	s.t.Helper()
	close(s.stop)
	s.senders.Wait()
	p := s.weirs[0]
	var ids []string
	byID := map[string]*sent{}
	for _, c := range s.all {
		if c.id == "" {
			continue
		}
		if byID[c.id] != nil {
			s.t.Errorf("%s was given to two calls", c.id)
		}
		ids, byID[c.id] = append(ids, c.id), c
	}
	calls := p.allEnded(ids)
	all := readLedger(s.ledger)
	s.checkBodies(all)
	letters := map[string]int{}
	for _, d := range p.deadLetters() {
		letters[d.ID]++
	}
	begun, done := byCall(all, began), byCall(all, answered)
	again := 0
	for id, c := range byID {
		if done[id] == 0 {
			s.t.Errorf("%s was taken (%s) and not processed: %+v", id, c.path(), calls[id])
		}
		if needs := map[sort]int{tried: 2, hopeless: 2}; begun[id] > max(1, needs[c.sort]) {
			again++
		}
		s.check(c, calls[id], letters[id])
	}
	for id, c := range byID {
		if c.sort == told {
			p.until(id, "the callback of "+id+" has ended", func(c queue.Call) bool { return c.Callback != nil && c.Callback.State == queue.Succeeded })
			s.mu.Lock()
			if s.received[id] == 0 {
				s.t.Errorf("the receiver was not told of %s", id)
			}
			s.mu.Unlock()
		}
	}
	p.drained("sure")
	p.drained("poor")
	s.t.Logf("%d calls sent, %d taken and all processed, %d of them once more for a kill; the others were answered %v", len(s.all), len(ids), again, s.refused)
}

// check looks at what weir says of a call.
func (s *siege) check(c *sent, is queue.Call, letters int) {
	want, code, attempts := queue.Succeeded, http.StatusOK, 1
	switch c.sort {
	case tried:
		attempts = 2
	case wrong:
		want, code = queue.Failed, http.StatusBadRequest
	case hopeless:
		want, code, attempts = queue.Dead, http.StatusInternalServerError, 2
	}
	// One that was killed while it ran is another attempt, if weir saw it.
	if is.State != want || is.Code != code || is.Attempts < attempts || is.ID != c.id {
		s.t.Errorf("%s: %+v, want %s by %d", c.path(), is, want, code)
	}
	if has := letters > 0; letters > 1 || has != (want == queue.Dead) {
		s.t.Errorf("%s is %s, and %d times among the dead letters", is.ID, is.State, letters)
	}
}

// checkBodies: whatever a handler got is what was sent, with its path.
func (s *siege) checkBodies(all []entry) {
	s.t.Helper()
	for _, e := range all {
		_, query, _ := strings.Cut(e.URI, "?n=")
		number, _, _ := strings.Cut(query, "&")
		n, _ := strconv.Atoi(number)
		c := s.all[n]
		if c == nil || e.Body != hashOf(c.body()) || e.Method != http.MethodPost || !strings.HasSuffix(c.path(), e.URI) {
			s.t.Errorf("nobody sent %+v", e)
		}
	}
}

// The steps at which somebody is killed from outside.
const (
	whileRunning = "while running"
	afterAnswer  = "after the answer"
	anytime      = "at any time"
)

// round says where the i-th kill is.
func round(i int, steps []string) (step string, n int) {
	return steps[i%len(steps)], 1 + rand.IntN(4)
}

// byImportance are all steps, those first that few rounds should have.
func byImportance() []string {
	first := []string{"after put", whileRunning, "before save", "before ack", "before put", "after save", anytime, "before retry", "before bury", "before callback put"}
	for _, step := range steps {
		if !has(first, step) {
			first = append(first, step)
		}
	}
	return first
}

func has(all []string, one string) bool {
	return strings.Contains("\n"+strings.Join(all, "\n")+"\n", "\n"+one+"\n")
}

// TestKilledWeirs: kill -9 of a weir that keeps calls itself, at each step.
func TestKilledWeirs(t *testing.T) {
	t.Parallel()
	s := newSiege(t)
	p, k := s.weir(s.stack(1), "WEIR_DATA_DIR=data")
	s.send()
	for i := range asyncRounds(t, 6) {
		step, n := round(i, byImportance())
		s.goesOn(10)
		s.killWeir(p, k, step, n)
	}
	s.goesOn(20)
	s.over()
}

// killWeir kills it at the step, and starts it again.
func (s *siege) killWeir(p *program, k *striker, step string, n int) {
	s.t.Helper()
	switch step {
	case whileRunning:
		s.runs()
		p.Signal(syscall.SIGKILL)
	case anytime:
		time.Sleep(rand.N(300 * time.Millisecond)) // whenever: nothing is waited for
		p.Signal(syscall.SIGKILL)
	default:
		k.arm(strike{Step: step, N: n, Victim: victimWeir})
		k.struck(fmt.Sprintf("weir comes to %q the time %d", step, n))
	}
	if code := p.Wait(); code != 128+9 {
		s.t.Fatalf("weir ended with %d", code)
	}
	// A child that was being started at that moment has the socket until it runs.
	programtest.Eventually(s.t, "the killed weir's port is free", func() bool {
		l, err := net.Listen("tcp", p.Addr)
		if err == nil {
			l.Close()
		}
		return err == nil
	})
	p.Launch().Ready()
	p.keeps()
}

// TestKilledServer: kill -9 of the NATS server that keeps the calls, and of the
// weir, in turns, at each step.
func TestKilledServer(t *testing.T) {
	t.Parallel()
	nats := newNats(t, "alone", "")
	s := newSiege(t)
	p, k := s.weir(s.stack(1), "WEIR_NATS_URL="+nats.url)
	s.send()
	for i := range asyncRounds(t, 6) {
		step, n := round(i/2, byImportance())
		s.goesOn(10)
		if i%2 == 1 {
			s.killWeir(p, k, step, n)
			continue
		}
		switch step {
		case whileRunning:
			s.runs()
			nats.Signal(syscall.SIGKILL)
		case anytime:
			nats.Signal(syscall.SIGKILL)
		default:
			k.arm(strike{Step: step, N: n, Victim: victimNats, Pid: nats.Pid()})
			k.struck(fmt.Sprintf("weir comes to %q the time %d", step, n))
		}
		nats.Wait()
		nats.start()
	}
	s.goesOn(20)
	s.over()
}

// TestKilledPods: kill -9 of a fwatchdog, and of a handler, at each step that
// is theirs.
func TestKilledPods(t *testing.T) {
	t.Parallel()
	s := newSiege(t)
	p, k := s.weir(s.stack(3), "WEIR_DATA_DIR=data")
	p.has("sure", 3)
	s.send()
	places := []string{whileRunning, afterAnswer, "before save", "before ack", "after fetch", "before retry", "after save"}
	for i := range asyncRounds(t, 6) {
		victim := []string{victimPod, victimHandler}[i%2]
		step, n := round(i/2, places)
		s.goesOn(10)
		programtest.Eventually(t, "two replicas are there", func() bool {
			a, err := p.do(http.MethodGet, "/status-function/sure", nil)
			return err == nil && (strings.Contains(a.text, `y":2,`) || strings.Contains(a.text, `y":3,`))
		})
		if step == whileRunning {
			last := s.runs()
			pid := last.Pid
			if victim == victimPod {
				pid = last.Parent
			}
			_ = syscall.Kill(pid, syscall.SIGKILL)
			continue
		}
		if step == afterAnswer {
			programtest.Eventually(t, "a call is taken whose handler kills", func() bool {
				return s.one(s.doors[0], plain, "&kill="+victim+"&when=answered").id != ""
			})
			continue
		}
		k.arm(strike{Step: step, N: n, Victim: victim, Ledger: s.ledger})
		k.struck(fmt.Sprintf("weir comes to %q the time %d", step, n))
	}
	s.goesOn(20)
	s.over()
}
