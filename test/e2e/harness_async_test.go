package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// keeps is one release that keeps calls in itself, in a namespace where Pod
// Security `restricted` is enforced.
var keeps *release

func keepingRelease(t *testing.T) *release {
	t.Helper()
	c := needNode(t)
	if keeps == nil {
		r := c.embedded(t, "async")
		keeps = r
		return r
	}
	keeps.weirs(t, 1)
	keeps.explainAll(t)
	return keeps
}

// embedded installs a weir that keeps calls in itself, on a volume.
func (c *cluster) embedded(t *testing.T, prefix string, values ...string) *release {
	t.Helper()
	r := &release{c: c, namespace: c.namespace(t, prefix), one: true}
	r.kept = keepLogs(c, r.namespace)
	c.k(t, "label", "namespace", r.namespace, "pod-security.kubernetes.io/enforce=restricted")
	r.explainAll(t)
	r.volume(t, "data-weir-0")
	r.helm(t, "install", append(values, "store.embedded=true")...)
	r.weirs(t, 1)
	return r
}

// volume is a folder of the node's disk, for a claim of the release: nothing
// on the node makes volumes. The folder is root's, and it is the kubelet that
// gives it to the pod's group.
func (r *release) volume(t *testing.T, claim string) {
	t.Helper()
	name := r.namespace + "-" + claim
	dir := filepath.Join(r.c.dir, "volumes", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var nodes struct {
		Items []struct {
			Metadata struct{ Labels map[string]string }
		}
	}
	if err := r.c.get("/api/v1/nodes", &nodes); err != nil {
		t.Fatal(err)
	}
	const host = "kubernetes.io/hostname"
	type m = map[string]any
	text, err := json.Marshal(m{"apiVersion": "v1", "kind": "PersistentVolume", "metadata": m{"name": name}, "spec": m{
		"capacity": m{"storage": "10Gi"}, "accessModes": []string{"ReadWriteOnce"}, "persistentVolumeReclaimPolicy": "Retain",
		"local": m{"path": dir}, "claimRef": m{"namespace": r.namespace, "name": claim},
		"nodeAffinity": m{"required": m{"nodeSelectorTerms": []m{{"matchExpressions": []m{
			{"key": host, "operator": "In", "values": []string{nodes.Items[0].Metadata.Labels[host]}}}}}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	r.c.volumes = append(r.c.volumes, name)
	r.c.apply(t, r.namespace, string(text))
}

// A ledger is told by functions which calls they begin and end, wherever the
// pod is that does so and whatever becomes of it.
type ledger struct {
	url string
	// says is what a call is to answer that began the n-th time; nil is 200.
	says func(call, times int) int

	mu           sync.Mutex
	began, ended map[int]int
}

func openLedger(t *testing.T, c *cluster, says func(call, times int) int) *ledger {
	t.Helper()
	var nodes struct {
		Items []struct {
			Status struct {
				Addresses []struct{ Type, Address string }
			}
		}
	}
	if err := c.get("/api/v1/nodes", &nodes); err != nil {
		t.Fatal(err)
	}
	in, err := net.Listen("tcp", net.JoinHostPort(nodes.Items[0].Status.Addresses[0].Address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	l := &ledger{url: "http://" + in.Addr().String(), says: says, began: map[int]int{}, ended: map[int]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{call}/{what}", l.note)
	server := &http.Server{Handler: mux}
	go server.Serve(in)
	t.Cleanup(func() { server.Close() })
	return l
}

func (l *ledger) note(w http.ResponseWriter, r *http.Request) {
	call, err := strconv.Atoi(r.PathValue("call"))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch r.PathValue("what") {
	case "begin":
		l.began[call]++
		if l.says != nil {
			w.WriteHeader(l.says(call, l.began[call]))
		}
	case "end":
		l.ended[call]++
	}
}

// counts are how often each call began and came to its end.
func (l *ledger) counts() (began, ended map[int]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.began), maps.Clone(l.ended)
}

// A flood is clients that send asynchronous calls, and repeat each until weir
// has acknowledged it.
type flood struct {
	f       *function
	ledger  *ledger
	urls    []string
	clients int
	calls   int             // how many, 0: until stopped
	ms      func(n int) int // how long a call takes
	pause   time.Duration   // of a client between two calls
	client  http.Client

	all     sync.WaitGroup
	next    atomic.Int64
	stopped atomic.Bool

	mu       sync.Mutex
	taken    map[int]string // where the status of each acknowledged call is
	unkept   map[string]int // how often it was said that a call is not kept
	faults   []error
	from, to time.Time // the first was sent, the last acknowledged
}

func (f *flood) start() *flood {
	f.taken, f.unkept, f.from = map[int]string{}, map[string]int{}, time.Now()
	f.client = http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext, MaxIdleConnsPerHost: f.clients,
	}}
	for i := range f.clients {
		f.all.Go(func() {
			for tries := i; !f.stopped.Load(); time.Sleep(f.pause) {
				n := int(f.next.Add(1) - 1)
				if f.calls > 0 && n >= f.calls {
					return
				}
				for end := time.Now().Add(patience); ; tries++ {
					where, why := f.send(f.urls[tries%len(f.urls)], n)
					if f.note(n, where, why, time.Now().After(end)) {
						break
					}
					time.Sleep(50 * time.Millisecond)
				}
			}
		})
	}
	return f
}

// body is a call's own.
func (f *flood) body(n int) []byte { return noise(int64(n), 1000) }

// send sends a call once. where is empty if weir did not say that it has it;
// why then says so.
func (f *flood) send(base string, n int) (where string, why error) {
	tell := url.QueryEscape(fmt.Sprintf("%s/%d", f.ledger.url, n))
	req, err := http.NewRequest(http.MethodPost, fmt.Sprintf("%s/async-function/%s?ms=%d&tell=%s", base, f.f.name, f.ms(n), tell), bytes.NewReader(f.body(n)))
	if err != nil {
		return "", &notKept{fault: true, what: err.Error()}
	}
	req.Header.Set("Idempotency-Key", fmt.Sprintf("%d-%d", f.from.UnixNano(), n))
	resp, err := f.client.Do(req)
	if err != nil {
		return "", &notKept{what: "no answer"}
	}
	resp.Body.Close()
	switch where := resp.Header.Get("Location"); {
	case resp.StatusCode == http.StatusAccepted && strings.HasPrefix(where, "/async-call/"):
		return where, nil
	case resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "":
		return "", &notKept{what: resp.Status}
	}
	return "", &notKept{fault: true, what: fmt.Sprintf("%s, Location %q, Retry-After %q", resp.Status, resp.Header.Get("Location"), resp.Header.Get("Retry-After"))}
}

// notKept is why a call is to be sent again.
type notKept struct {
	what  string
	fault bool // it may not be so
}

func (e *notKept) Error() string { return e.what }

func (f *flood) note(n int, where string, why error, late bool) (done bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var not *notKept
	switch {
	case !errors.As(why, &not):
		f.taken[n], f.to = where, time.Now()
		return true
	case late || not.fault:
		f.faults = append(f.faults, fmt.Errorf("call %d: %w", n, why))
		return late
	}
	f.unkept[not.what]++
	return false
}

// acknowledged are the calls that weir has taken, and where each is asked for.
func (f *flood) acknowledged() map[int]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.taken)
}

// more waits until so many more calls have been acknowledged.
func (f *flood) more(t *testing.T, n int) {
	t.Helper()
	goal := len(f.acknowledged()) + n
	eventually(t, fmt.Sprintf("%d more calls are taken", n), func() error {
		if got := len(f.acknowledged()); got < goal {
			f.mu.Lock()
			defer f.mu.Unlock()
			return fmt.Errorf("%d of %d; not taken: %v", got, goal, f.unkept)
		}
		return nil
	})
}

// stop ends the clients, each after the call that it has begun to send.
func (f *flood) stop(t *testing.T) {
	t.Helper()
	f.stopped.Store(true)
	f.wait(t)
}

func (f *flood) wait(t *testing.T) {
	t.Helper()
	f.all.Wait()
	const shown = 10
	for _, err := range f.faults[:min(shown, len(f.faults))] {
		t.Error(err)
	}
}

// An asked is what weir says of a call.
type asked struct {
	ID, State, Reason string
	Code, Attempts    int
	Result            *struct{ Body []byte }
	Accepted, Ended   time.Time
}

func (a asked) final() bool {
	return slices.Contains([]string{"succeeded", "failed", "dead", unknownCall}, a.State)
}

// unknownCall is the state of a call that weir knows nothing of.
const unknownCall = "unknown"

// askCall asks a weir what became of a call.
func askCall(base, where string) (a asked, err error) {
	resp, text, err := tryAsk(http.MethodGet, base+where, nil)
	if err != nil {
		return a, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return asked{State: unknownCall, Reason: text}, nil
	default:
		return a, fmt.Errorf("%s: %s: %.200q", where, resp.Status, text)
	}
	return a, json.Unmarshal([]byte(text), &a)
}

// states asks for all calls and counts them by state.
func (f *flood) states(base string) (map[string]int, error) {
	all := map[string]int{}
	for _, where := range f.acknowledged() {
		a, err := askCall(base, where)
		if err != nil {
			return all, err
		}
		all[a.State]++
	}
	return all, nil
}

// settled waits until every acknowledged call has its outcome, in the words of
// each weir, and fails the test for those that did not succeed with their own
// body for an answer, or that no handler has come to the end of. repeated is
// how many a handler began again without having been told to.
func (f *flood) settled(t *testing.T) (outcome map[int]asked, repeated int) {
	t.Helper()
	outcome = map[int]asked{}
	calls := f.acknowledged()
	for n, where := range calls {
		for _, base := range f.urls {
			eventually(t, fmt.Sprintf("call %d, %s, ends", n, where), func() error {
				a, err := askCall(base, where)
				if outcome[n] = a; err == nil && !a.final() {
					err = fmt.Errorf("%s: %+v", base, a)
				}
				return err
			})
			a := outcome[n]
			if a.State != "succeeded" || a.Code != http.StatusOK || a.Result == nil || !bytes.Equal(a.Result.Body, f.body(n)) {
				t.Errorf("call %d, %s: %+v, want that it succeeded with 200 and its own body", n, where, a)
			}
		}
	}
	began, ended := f.ledger.counts()
	for n, where := range calls {
		if ended[n] == 0 {
			t.Errorf("call %d, %s, was acknowledged and never ran to its end: lost", n, where)
		}
		if began[n] > 1 && (f.ledger.says == nil || f.ledger.says(n, began[n]-1) == http.StatusOK) {
			repeated++
		}
	}
	return outcome, repeated
}

// metric adds up what a weir says in lines that begin with a name and hold all
// of what else is given.
func (w weir) metric(t *testing.T, name string, with ...string) (sum float64) {
	t.Helper()
	_, text := ask(t, http.MethodGet, w.metrics+"/metrics", nil)
next:
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, name+"{") {
			continue
		}
		for _, part := range with {
			if !strings.Contains(line, part) {
				continue next
			}
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndex(line, " ")+1:]), 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		sum += v
	}
	return sum
}
