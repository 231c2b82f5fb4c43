package main_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weir-run/weir/queue"
)

// TestRetryTimes: when a call is tried again is as its function says, seen from
// outside.
func TestRetryTimes(t *testing.T) {
	t.Parallel()
	ledger := ledgerFile(t)
	waits := func(attempts int) []string {
		return []string{`com.openfaas.retry.min_wait: "600ms"`, `com.openfaas.retry.max_wait: "2s"`, `weir/retry-jitter: none`,
			fmt.Sprintf("com.openfaas.retry.attempts: %q", fmt.Sprint(attempts)), `com.openfaas.retry.codes: "500,503"`}
	}
	p := keeping(t, "functions:\n"+recorder(t, "four", ledger, nil, waits(4))+recorder(t, "late", ledger, nil, []string{`com.openfaas.retry.min_wait: "1h"`}))
	id := p.taken("four?status=500&size=10", "")
	var nexts, ends []time.Time
	c := p.until(id, id+" has ended", func(c queue.Call) bool {
		if c.State == queue.Retrying && !c.Next.IsZero() && !slices.ContainsFunc(nexts, c.Next.Equal) {
			nexts, ends = append(nexts, c.Next), append(ends, c.Ended)
		}
		return c.State.Ended()
	})
	// 600 ms, doubled, and doubled again would be more than the most.
	for i, want := range []time.Duration{600 * time.Millisecond, 1200 * time.Millisecond, 2 * time.Second} {
		if i >= len(nexts) || nexts[i].Sub(ends[i]) != want {
			t.Errorf("the waits before the next tries: %v after %v, want the %d. to be %v", nexts, ends, i+1, want)
			break
		}
	}
	all := times(readLedger(ledger), id, began)
	for i, e := range all {
		if i > 0 && i <= len(nexts) && e.time().Before(nexts[i-1]) {
			t.Errorf("begun at %v, and not before %v was said", e.time(), nexts[i-1])
		}
		if e.Retry != fmt.Sprint(i) {
			t.Errorf("try %d came with X-Retry %q", i+1, e.Retry)
		}
	}
	if c.State != queue.Dead || c.Attempts != 4 || c.MaxAttempts != 4 || len(all) != 4 || c.Code != http.StatusInternalServerError || !strings.HasPrefix(c.Reason, "attempts") {
		t.Errorf("%+v, begun %d times", c, len(all))
	}

	// What the function asks for takes the place of the wait.
	id = p.taken("four?status=503,200&retry-after=3", "")
	c = p.until(id, id+" is tried again", func(c queue.Call) bool { return c.State == queue.Retrying && !c.Next.IsZero() })
	if wait := c.Next.Sub(c.Ended); wait != 3*time.Second {
		t.Errorf("%v after an answer with Retry-After: 3", wait)
	}
	if c := p.ended(id); c.State != queue.Succeeded || c.Attempts != 2 {
		t.Errorf("%+v", c)
	}
	// Others are not tried again.
	if c := p.ended(p.taken("four?status=502", "")); c.State != queue.Failed || c.Code != http.StatusBadGateway || c.Attempts != 1 {
		t.Errorf("%+v", c)
	}
	p.cancelledInBetween()
}

// cancelledInBetween cancels a call that waits for its next try.
func (p *program) cancelledInBetween() {
	p.t.Helper()
	id := p.taken("late?status=500", "")
	p.until(id, id+" is to be tried again", func(c queue.Call) bool { return c.State == queue.Retrying && !c.Next.IsZero() })
	a, err := p.do(http.MethodDelete, "/async-call/"+id, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	a.check(p.t, http.StatusOK, `"state":"failed"`, `"reason":"cancelled"`)
}

// TestCancel: a call that is queued never runs, and the handler of one that
// runs sees its request end.
func TestCancel(t *testing.T) {
	t.Parallel()
	ledger := ledgerFile(t)
	p := keeping(t, "functions:\n"+recorder(t, "one", ledger, []string{"max_inflight: 1"}, []string{`weir/max: "1"`}))
	running := p.taken("one?ms=600000", "")
	queued := p.taken("one?ms=1", "")
	next := p.taken("one?ms=1", "")
	p.until(running, "the first runs", func(c queue.Call) bool { return c.State == queue.Running })
	p.Until("its handler has it", func() bool { return len(times(readLedger(ledger), running, began)) == 1 })
	if c, status := p.ask(queued); c.State != queue.Queued || status != http.StatusOK {
		t.Errorf("%d %+v", status, c)
	}
	for _, id := range []string{queued, running} {
		a, err := p.do(http.MethodDelete, "/async-call/"+id, nil)
		if err != nil {
			t.Fatal(err)
		}
		a.check(t, http.StatusOK, `"state":"failed"`, `"reason":"cancelled"`)
		if a, err = p.do(http.MethodDelete, "/async-call/"+id, nil); err != nil {
			t.Fatal(err)
		}
		a.check(t, http.StatusConflict, "has ended")
	}
	p.Until("the handler sees that its request ended", func() bool { return len(times(readLedger(ledger), running, left)) == 1 })
	if c := p.ended(next); c.State != queue.Succeeded {
		t.Errorf("the call behind them: %+v", c)
	}
	all := readLedger(ledger)
	if n := len(times(all, queued, began)); n != 0 {
		t.Errorf("what was cancelled in the queue was begun %d times", n)
	}
	if n := len(times(all, running, answered)); n != 0 {
		t.Error("what was cancelled was answered")
	}
	// As SlimFaas's clients cancel.
	id := p.taken("one?ms=600000", "")
	a, err := p.do(http.MethodDelete, "/async-function/"+id, nil)
	if err != nil {
		t.Fatal(err)
	}
	a.check(t, http.StatusOK, `"reason":"cancelled"`)
}

// TestAsyncShutdownTimeout: the log says what was cut, and of nothing else that
// it was.
func TestAsyncShutdownTimeout(t *testing.T) {
	t.Parallel()
	ledger := ledgerFile(t)
	p := keeping(t, "functions:\n"+recorder(t, "echo", ledger, nil, soon), "WEIR_SHUTDOWN_TIMEOUT=1s")
	id := p.taken("echo?ms=600000", "")
	p.Until("it runs", func() bool { return len(times(readLedger(ledger), id, began)) == 1 })
	p.Signal(syscall.SIGTERM)
	if code := p.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	log := p.Log.String()
	if !strings.Contains(log, "asynchronous calls were cut, and will run again") || strings.Contains(log, "upgraded connections were cut") {
		t.Error(log)
	}
	p.Gone()
}

// TestDeadLetters: those that were given up are listed, shown, sent again and
// dropped.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	ledger := ledgerFile(t)
	labels := append([]string{`weir/retry-attempts: "1"`}, soon[:2]...)
	p := keeping(t, "functions:\n"+recorder(t, "poor", ledger, nil, labels)+recorder(t, "other", ledger, nil, labels))
	first := p.taken("poor/some/path?status=500", "body of the first", "X-Call-Id: trace-1", "X-Mine: yes")
	p.ended(first)
	second := p.taken("other?status=500", "")
	p.ended(second)
	all := p.deadLetters()
	if len(all) != 2 || all[0].ID != first || all[1].ID != second || all[0].CallID != "trace-1" || all[0].Code != http.StatusInternalServerError ||
		all[0].Header != nil || all[0].BodySize != len("body of the first") {
		t.Fatalf("%+v", all)
	}
	p.get("/system/dead-letters?function=other").check(t, http.StatusOK, second)
	if a := p.get("/system/dead-letters?function=other"); strings.Contains(a.text, first) {
		t.Errorf("of another function: %s", a.text)
	}
	var d queue.DeadLetter
	if err := json.Unmarshal([]byte(p.get("/system/dead-letters/"+first).text), &d); err != nil {
		t.Fatal(err)
	}
	if d.Method != http.MethodPost || d.Path != "/some/path?status=500" || string(d.Body) != "body of the first" || d.Header.Get("X-Mine") != "yes" {
		t.Errorf("%+v", d)
	}

	a, err := p.do(http.MethodPost, "/system/dead-letters/"+first, nil)
	if err != nil {
		t.Fatal(err)
	}
	a.check(t, http.StatusAccepted)
	again := strings.TrimPrefix(a.Header.Get("Location"), "/async-call/")
	c := p.ended(again)
	if c.State != queue.Dead || c.Resent != first || c.CallID != "trace-1" {
		t.Errorf("sent again: %+v", c)
	}
	if begun := times(readLedger(ledger), "trace-1", began); len(begun) != 2 || begun[1].Body != hashOf("body of the first") || begun[1].URI != "/some/path?status=500" {
		t.Errorf("%+v", begun)
	}
	p.Until("the letter is gone, and the new one there", func() bool {
		all = p.deadLetters()
		return len(all) == 2 && all[0].ID == second && all[1].ID == again
	})
	for range 2 {
		if a, err = p.do(http.MethodDelete, "/system/dead-letters/"+second, nil); err != nil {
			t.Fatal(err)
		}
	}
	a.check(t, http.StatusNotFound)
	if all = p.deadLetters(); len(all) != 1 || all[0].ID != again {
		t.Errorf("%+v", all)
	}
	// What became of it is known all the same.
	if c, status := p.ask(second); status != http.StatusOK || c.State != queue.Dead {
		t.Errorf("%d %+v", status, c)
	}
}

// TestCallbacks: to a receiver that fails at first, to one that is refused, and
// to weir itself.
func TestCallbacks(t *testing.T) {
	t.Parallel()
	ledger := ledgerFile(t)
	type got struct {
		header http.Header
		body   string
	}
	var mu sync.Mutex
	var all []got
	flaky := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		all = append(all, got{r.Header.Clone(), string(body)})
		if len(all) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer flaky.Close()
	p := keeping(t, "functions:\n"+recorder(t, "echo", ledger, nil, soon)+recorder(t, "next", ledger, nil, soon), "WEIR_CALLBACK_ALLOW=127.0.0.1")
	id := p.taken("echo?n=1", "hello", "X-Callback-Url: "+flaky.URL+"/told", "X-Call-Id: trace-2")
	c := p.until(id, "its callback is tried again", func(c queue.Call) bool { return c.Callback != nil && c.Callback.Attempts == 1 })
	if c.State != queue.Succeeded || c.Callback.State != queue.Retrying || c.Callback.Code != http.StatusServiceUnavailable || c.Callback.Next.IsZero() {
		t.Errorf("%+v %+v", c, c.Callback)
	}
	c = p.until(id, "its callback has ended", func(c queue.Call) bool { return c.Callback != nil && c.Callback.State.Ended() })
	if c.Callback.State != queue.Succeeded || c.Callback.Attempts != 2 {
		t.Errorf("%+v", c.Callback)
	}
	mu.Lock()
	for i, g := range all {
		if g.header.Get("X-Call-Id") != "trace-2" || g.header.Get("X-Function-Name") == "" || g.header.Get("X-Function-Status") != "200" ||
			!strings.HasPrefix(g.body, "POST /?n=1 ") {
			t.Errorf("callback %d: %+v", i+1, g)
		}
	}
	mu.Unlock()

	id = p.taken("echo?n=2", "hello", "X-Callback-Url: "+p.URL+"/function/next/from/echo?n=3")
	c = p.until(id, "its callback is a call", func(c queue.Call) bool { return c.Callback != nil && c.Callback.Call != "" })
	if next := p.ended(c.Callback.Call); next.Function != "next.default" || next.State != queue.Succeeded {
		t.Errorf("%+v", next)
	}
	// Its body is the answer.
	begun := slices.DeleteFunc(readLedger(ledger), func(e entry) bool { return e.URI != "/from/echo?n=3" || e.Moment != began })
	if want := fmt.Sprintf("POST /?n=2 %s\n", hashOf("hello")); len(begun) != 1 || begun[0].Body != hashOf(want) {
		t.Errorf("%+v", begun)
	}
}

// TestAsSent: any method, path, query, header and body arrives as it was, and
// the answer can be asked for.
func TestAsSent(t *testing.T) {
	t.Parallel()
	ledger := ledgerFile(t)
	p := keeping(t, "functions:\n"+recorder(t, "echo", ledger, nil, nil), "WEIR_ASYNC_RESULT_SIZE=1Ki")
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, "BREW"} {
		body := strings.Repeat(method, 50_000)
		id, a, err := p.submit(method, "echo/a%2Fb//c/../d%20e?x=1&x=2&y=%41+b", body, "Host: elsewhere.example")
		if err != nil || id == "" {
			t.Fatalf("%s: %v %d %q", method, err, a.status(), a.text)
		}
		if a.Header.Get("X-Call-Id") != id || len(a.text) != 0 {
			t.Errorf("%s: %v %q", method, a.Header, a.text)
		}
		c := p.ended(id)
		begun := times(readLedger(ledger), id, began)
		if len(begun) != 1 || begun[0].Method != method || begun[0].URI != "/a%2Fb//c/../d%20e?x=1&x=2&y=%41+b" || begun[0].Body != hashOf(body) || begun[0].Host != "elsewhere.example" {
			t.Errorf("%s arrived as %+v", method, begun)
		}
		want := fmt.Sprintf("%s /a%%2Fb//c/../d%%20e?x=1&x=2&y=%%41+b %s\n", method, hashOf(body))
		if c.Result == nil || string(c.Result.Body) != want || c.Result.Size != int64(len(want)) {
			t.Errorf("%s: %+v", method, c.Result)
		}
	}
	huge := p.ended(p.taken("echo?size=5000000", ""))
	if huge.Result == nil || len(huge.Result.Body) != 1024 || huge.Result.Size != 5_000_000 {
		t.Errorf("%+v", huge)
	}
	one := p.taken("echo?n=key", "x", "Idempotency-Key: order-1")
	if two, a, _ := p.submit(http.MethodPost, "echo?n=key", "x", "Idempotency-Key: order-1"); two != one || a.Header.Get("X-Weir-Duplicate") != "true" {
		t.Errorf("%s, then %s %v", one, two, a.Header)
	}
	p.ended(one)
	if two, _, _ := p.submit(http.MethodPost, "echo?n=key", "x", "Idempotency-Key: order-1"); two != one {
		t.Errorf("%s, then %s when it had ended", one, two)
	}
	if n := len(times(readLedger(ledger), one, began)); n != 1 {
		t.Errorf("it was begun %d times", n)
	}
}

// TestBadAsyncInput: what is wrong is said, with what to do.
func TestBadAsyncInput(t *testing.T) {
	t.Parallel()
	ledger := ledgerFile(t)
	p := keeping(t, "functions:\n"+recorder(t, "echo", ledger, nil, nil), "WEIR_ASYNC_MAX_BODY=64Ki")
	long := strings.Repeat("x", 64<<10+1)
	for name, c := range map[string]struct {
		method, path, body string
		headers            []string
		status             int
		words              string
	}{
		"unknown function":      {path: "/async-function/nobody", status: 404, words: "nobody"},
		"no function's name":    {path: "/async-function/No_Body", status: 400, words: "No_Body"},
		"a body that is long":   {path: "/async-function/echo", body: long, status: 413, words: "WEIR_ASYNC_MAX_BODY"},
		"no URL":                {path: "/async-function/echo", headers: []string{"X-Callback-Url: not a url"}, status: 400, words: "X-Callback-Url"},
		"another scheme":        {path: "/async-function/echo", headers: []string{"X-Callback-Url: ftp://example.com/"}, status: 400, words: "http"},
		"this host":             {path: "/async-function/echo", headers: []string{"X-Callback-Url: http://127.0.0.1:1/"}, status: 400, words: "WEIR_CALLBACK_ALLOW"},
		"metadata":              {path: "/async-function/echo", headers: []string{"X-Callback-Url: http://169.254.169.254/latest"}, status: 400, words: "WEIR_CALLBACK_ALLOW"},
		"a trace id with space": {path: "/async-function/echo", headers: []string{"X-Call-Id: a b"}, status: 400, words: "X-Call-Id"},
		"a long trace id":       {path: "/async-function/echo", headers: []string{"X-Call-Id: " + strings.Repeat("a", 65)}, status: 400, words: "64"},
		"a long key":            {path: "/async-function/echo", headers: []string{"Idempotency-Key: " + strings.Repeat("k", 256)}, status: 400, words: "255"},
		"unknown call":          {method: http.MethodGet, path: "/async-call/aaaaaaaaaaaaaaaaaaaaaaaaaa-1", status: 404, words: "no such call"},
		"no call's ID":          {method: http.MethodGet, path: "/async-call/1234", status: 404, words: "Location"},
		"unknown letter":        {method: http.MethodGet, path: "/system/dead-letters/aaaaaaaaaaaaaaaaaaaaaaaaaa-1", status: 404, words: "no such dead letter"},
		"a limit that is none":  {method: http.MethodGet, path: "/system/dead-letters?limit=0", status: 400, words: "expected 1 to"},
		"cancel what is not":    {method: http.MethodDelete, path: "/async-call/aaaaaaaaaaaaaaaaaaaaaaaaaa-1", status: 404, words: "no such call"},
	} {
		t.Run(name, func(t *testing.T) {
			method := c.method
			if method == "" {
				method = http.MethodPost
			}
			var a answer
			// A client that still writes its body may be cut off before it reads.
			p.Until("an answer", func() (ok bool) {
				var err error
				a, err = p.do(method, c.path, strings.NewReader(c.body), c.headers...)
				return err == nil
			})
			a.check(t, c.status, c.words)
		})
	}
	var chunked answer
	p.Until("an answer", func() bool {
		var err error
		chunked, err = p.do(http.MethodPost, "/async-function/echo", io.MultiReader(strings.NewReader(long)))
		return err == nil
	})
	chunked.check(t, http.StatusRequestEntityTooLarge, "WEIR_ASYNC_MAX_BODY")
	if all := readLedger(ledger); len(all) != 0 {
		t.Errorf("handlers were asked: %+v", all)
	}

	without := local(t, "functions:\n"+function(t, "echo", nil, asleep))
	a, err := without.do(http.MethodPost, "/async-function/echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	a.check(t, http.StatusServiceUnavailable, "WEIR_DATA_DIR", "WEIR_NATS_URL")
	p.get("/async-call/"+base64.RawURLEncoding.EncodeToString([]byte("x"))).check(t, http.StatusNotFound)
}

// TestServersAway: while nobody keeps calls none is taken, and once somebody
// does they are.
func TestServersAway(t *testing.T) {
	t.Parallel()
	nats := newNats(t, "away", "")
	nats.Kill()
	ledger := ledgerFile(t)
	p := local(t, "functions:\n"+recorder(t, "echo", ledger, nil, soon), "WEIR_NATS_URL="+nats.url)
	refused := func() {
		t.Helper()
		id, a, err := p.submit(http.MethodPost, "echo", "x")
		if err != nil || id != "" {
			t.Fatalf("%v, taken as %q", err, id)
		}
		a.check(t, http.StatusServiceUnavailable)
		if a.Header.Get("Retry-After") == "" {
			t.Errorf("%v without Retry-After", a.Header)
		}
	}
	refused()
	nats.start()
	ids := []string{p.takesAgain("echo?n=1", "x")}
	nats.Kill()
	refused()
	nats.start()
	ids = append(ids, p.takesAgain("echo?n=2", "x"))
	p.processed(ledger, ids)
}
