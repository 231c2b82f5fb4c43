package main_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-run/weir/queue"
	"github.com/weir-run/weir/test/programtest"
)

// entry is a line of the ledger that testdata/children/ledger keeps.
type entry struct {
	At          int64
	Moment      string
	Call, Retry string
	Method      string
	URI, Host   string
	Body        string
	Status      int
	Pid, Parent int
}

func (e *entry) time() time.Time { return time.Unix(0, e.At) }

// The moments.
const (
	began    = "began"
	answered = "answered"
	left     = "left"
)

// readLedger is all of it. What is not a whole line yet is left out.
func readLedger(path string) (all []entry) {
	text, _ := os.ReadFile(path)
	whole, _, _ := cutLast(text, '\n')
	for line := range bytes.SplitSeq(whole, []byte("\n")) {
		var e entry
		if json.Unmarshal(line, &e) == nil {
			all = append(all, e)
		}
	}
	return all
}

func cutLast(text []byte, sep byte) (before, after []byte, found bool) {
	i := bytes.LastIndexByte(text, sep)
	if i < 0 {
		return nil, text, false
	}
	return text[:i], text[i+1:], true
}

// times is when a call came to a moment.
func times(all []entry, call, moment string) (found []entry) {
	for _, e := range all {
		if e.Call == call && e.Moment == moment {
			found = append(found, e)
		}
	}
	return found
}

// byCall counts the lines of a moment by call.
func byCall(all []entry, moment string) map[string]int {
	n := map[string]int{}
	for _, e := range all {
		if e.Moment == moment {
			n[e.Call]++
		}
	}
	return n
}

func hashOf(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

// recorder is an entry of a stack: a function whose handler keeps a ledger.
func recorder(t testing.TB, name, ledger string, environment, labels []string) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "  %s:\n    fprocess: %s\n    environment:\n      mode: http\n      LEDGER: %s\n      exec_timeout: 10m\n      write_timeout: 10m\n      read_timeout: 10m\n",
		name, programtest.Build(t, "testdata/children/ledger"), ledger)
	for _, line := range environment {
		fmt.Fprintf(&b, "      %s\n", line)
	}
	b.WriteString("    annotations:\n      weir/type: capacity\n")
	for _, line := range labels {
		fmt.Fprintf(&b, "      %s\n", line)
	}
	return b.String()
}

// soon is when calls are tried again that are tried again at once.
var soon = []string{`com.openfaas.retry.min_wait: "50ms"`, `com.openfaas.retry.max_wait: "200ms"`, `com.openfaas.retry.attempts: "20"`}

// ledgerFile is a new one.
func ledgerFile(t testing.TB) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "ledger")
}

// keeping starts a weir that keeps calls in a folder of its own.
func keeping(t testing.TB, stack string, env ...string) *program {
	t.Helper()
	p := local(t, stack, append([]string{"WEIR_DATA_DIR=data"}, env...)...)
	p.keeps()
	return p
}

// keeps waits until calls are taken.
func (p *program) keeps() {
	p.t.Helper()
	p.Until("it takes asynchronous calls", func() bool {
		a, err := p.do(http.MethodGet, "/async-call/aaaaaaaaaaaaaaaaaaaaaaaaaa-1", nil)
		return err == nil && a.StatusCode == http.StatusNotFound
	})
}

// serves waits until a function has n replicas.
func (p *program) has(name string, n int) {
	p.t.Helper()
	p.Until(fmt.Sprintf("%s has %d replicas", name, n), func() bool {
		a, err := p.do(http.MethodGet, "/status-function/"+name, nil)
		return err == nil && strings.Contains(a.text, fmt.Sprintf(`"NumberReady":%d,`, n))
	})
}

// many keeps its connections: thousands of calls would wear out the ports.
var many = &http.Client{
	Transport: &http.Transport{MaxIdleConnsPerHost: 16, DialContext: (&net.Dialer{Timeout: programtest.Patience}).DialContext},
	Timeout:   programtest.Patience,
}

// submit sends an asynchronous call, and returns its ID where it was taken.
func (p *program) submit(method, path, body string, headers ...string) (id string, a answer, err error) {
	a, err = p.doBy(many, method, "/async-function/"+path, strings.NewReader(body), headers...)
	if err == nil && a.StatusCode == http.StatusAccepted {
		id = strings.TrimPrefix(a.Header.Get("Location"), "/async-call/")
	}
	return id, a, err
}

// taken is submit of a call that must be taken.
func (p *program) taken(path, body string, headers ...string) string {
	p.t.Helper()
	id, a, err := p.submit(http.MethodPost, path, body, headers...)
	if err != nil || id == "" {
		p.t.Fatalf("%s: %v %d %q", path, err, a.status(), a.text)
	}
	return id
}

func (a answer) status() int {
	if a.Response == nil {
		return 0
	}
	return a.StatusCode
}

// ask is what weir says of a call, and the status that it says it with.
func (p *program) ask(id string) (c queue.Call, status int) {
	a, err := p.doBy(many, http.MethodGet, "/async-call/"+id, nil)
	if err != nil {
		return c, 0
	}
	if a.StatusCode == http.StatusOK {
		if err := json.Unmarshal([]byte(a.text), &c); err != nil {
			p.t.Errorf("%s: %v: %q", id, err, a.text)
		}
	}
	return c, a.StatusCode
}

// until waits until weir says so of a call.
func (p *program) until(id, what string, so func(queue.Call) bool) (c queue.Call) {
	p.t.Helper()
	p.Until(what, func() bool {
		var status int
		c, status = p.ask(id)
		return status == http.StatusOK && so(c)
	})
	return c
}

// ended waits until a call has.
func (p *program) ended(id string) queue.Call {
	p.t.Helper()
	return p.until(id, id+" has ended", func(c queue.Call) bool { return c.State.Ended() })
}

// allEnded waits until all of them have. It takes the longest of all: leases of
// 15 s have to end, several times over, and pods are started anew after half a
// minute.
func (p *program) allEnded(ids []string) map[string]queue.Call {
	p.t.Helper()
	found := map[string]queue.Call{}
	end := time.Now().Add(3 * programtest.Patience)
	for _, id := range ids {
		for {
			c, status := p.ask(id)
			if status == http.StatusOK && c.State.Ended() {
				found[id] = c
				break
			}
			if status != http.StatusOK && status != 0 && status != http.StatusServiceUnavailable {
				p.t.Fatalf("what became of %s: %d", id, status)
			}
			if p.Over() || time.Now().After(end) {
				p.t.Fatalf("%d of %d calls have ended, and not %s: %d %+v", len(found), len(ids), id, status, c)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return found
}

// deadLetters lists all of them.
func (p *program) deadLetters() (all []queue.DeadLetter) {
	p.t.Helper()
	for after := uint64(0); ; {
		var page struct {
			DeadLetters []queue.DeadLetter
			Next        uint64
		}
		a := p.get(fmt.Sprintf("/system/dead-letters?limit=100&after=%d", after))
		a.check(p.t, http.StatusOK)
		if err := json.Unmarshal([]byte(a.text), &page); err != nil {
			p.t.Fatal(err)
		}
		all = append(all, page.DeadLetters...)
		if after = page.Next; after == 0 {
			return all
		}
	}
}

// drained waits until nothing of a function is queued or runs.
func (p *program) drained(name string) {
	p.t.Helper()
	p.Until(name+" has nothing queued", func() bool {
		labels := fmt.Sprintf(`{function_name="%s.default",queue_name="weir"}`, name)
		return p.metric("queue_worker_pending_messages"+labels) == 0 && p.metric("queue_worker_function_invocation_inflight"+labels) == 0
	})
}

// refusedShare is which part of the deliveries to a function a pod refused.
func (p *program) refusedShare(name string) float64 {
	p.t.Helper()
	labels := fmt.Sprintf(`{function_name="%s.default"}`, name)
	all := p.metric("weir_async_deliveries_total" + labels)
	if all == 0 {
		p.t.Fatalf("no delivery to %s is counted", name)
	}
	return p.metric("weir_async_refused_total"+labels) / all
}

// most is how many calls the ledger has at one moment.
func mostAtOnce(all []entry) (most int) {
	type edge struct {
		at int64
		by int
	}
	var edges []edge
	for _, e := range all {
		by := -1
		if e.Moment == began {
			by = 1
		}
		edges = append(edges, edge{e.At, by})
	}
	slices.SortFunc(edges, func(a, b edge) int {
		if a.at != b.at {
			return int(a.at - b.at)
		}
		return a.by - b.by
	})
	n := 0
	for _, e := range edges {
		n += e.by
		most = max(most, n)
	}
	return most
}

// handled is how long handlers had calls, all together.
func handled(all []entry) (sum time.Duration) {
	since := map[string]int64{}
	for _, e := range all {
		switch e.Moment {
		case began:
			since[e.Call] = e.At
		case answered:
			sum += time.Duration(e.At - since[e.Call])
		}
	}
	return sum
}
