package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/queue"
)

// scripted is an Async that notes what it was given and answers with err, or
// with what is asked for.
type scripted struct {
	mu        sync.Mutex
	messages  []*queue.Message
	keys      []string
	asked     []string
	duplicate bool
	err       error
	letters   []queue.DeadLetter
}

var firstID = queue.ID{Nonce: queue.Nonce{1, 2, 3}, Seq: 36}

func (s *scripted) note(format string, args ...any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, fmt.Sprintf(format, args...))
	return s.err
}

// was returns what was asked since the last time.
func (s *scripted) was() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := strings.Join(s.asked, "; ")
	s.asked = nil
	return asked
}

func (s *scripted) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *scripted) Submit(_ context.Context, m *queue.Message, key string) (queue.ID, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages, s.keys = append(s.messages, m), append(s.keys, key)
	return firstID, s.duplicate, s.err
}

// all are the messages since the last time.
func (s *scripted) all() []*queue.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.messages
	s.messages, s.keys = nil, nil
	return all
}

// kept is the only message since the last time.
func (s *scripted) kept(t *testing.T) *queue.Message {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.messages) != 1 {
		t.Fatalf("%d messages", len(s.messages))
	}
	m := s.messages[0]
	s.messages = nil
	return m
}

func (s *scripted) Call(_ context.Context, id queue.ID) (queue.Call, error) {
	return queue.Call{ID: id.String(), State: queue.Running}, s.note("call %s", id)
}

func (s *scripted) Cancel(_ context.Context, id queue.ID) (queue.Call, error) {
	return queue.Call{ID: id.String(), State: queue.Failed, Reason: "cancelled"}, s.note("cancel %s", id)
}

func (s *scripted) DeadLetters(_ context.Context, ref function.Ref, after uint64, n int) ([]queue.DeadLetter, error) {
	err := s.note("list %s %d %d", ref, after, n)
	return s.letters[:min(n, len(s.letters))], err
}

func (s *scripted) DeadLetter(_ context.Context, id queue.ID) (queue.DeadLetter, error) {
	return queue.DeadLetter{Call: queue.Call{ID: id.String(), State: queue.Dead}, Place: 9, Body: []byte("x")}, s.note("letter %s", id)
}

func (s *scripted) Resend(_ context.Context, id queue.ID) (queue.ID, error) {
	return queue.ID{Nonce: id.Nonce, Seq: id.Seq + 1}, s.note("resend %s", id)
}

func (s *scripted) Drop(_ context.Context, id queue.ID) error { return s.note("drop %s", id) }

func newAsyncWorld(t testing.TB, change func(*Config)) (*apiWorld, *scripted) {
	s := &scripted{}
	w := newAPIWorld(t, func(c *Config) {
		c.Async = s
		c.CheckCallback = func(url string) error {
			if !strings.HasPrefix(url, "http") {
				return errors.New("expected http:// or https://")
			}
			return nil
		}
		if change != nil {
			change(c)
		}
	})
	return w, s
}

func TestSubmitWithoutAStore(t *testing.T) {
	w := newAPIWorld(t, nil)
	for _, c := range [][2]string{{"POST", "/async-function/echo/x"}, {"GET", "/async-call/" + firstID.String()},
		{"GET", "/system/dead-letters"}, {"GET", "/system/dead-letters/" + firstID.String()}} {
		rec := w.ask(c[0], c[1], "body", withPassword)
		if rec.Code != 503 || !strings.Contains(rec.Body.String(), "WEIR_DATA_DIR") {
			t.Errorf("%s: %d %s", c, rec.Code, rec.Body)
		}
	}
}

func withPassword(r *http.Request) { r.SetBasicAuth(apiUser, apiPassword) }

func TestSubmitKeepsTheCallAsItWasSent(t *testing.T) {
	w, s := newAsyncWorld(t, nil)
	before := time.Now()
	rec := w.ask("PATCH", "/async-function/echo.far//a%2Fb/?y=%20&y", "the \x00 body", func(r *http.Request) {
		r.Host, r.RemoteAddr = "some.host:81", "192.0.2.7:55"
		r.Header = http.Header{
			"X-Many": {"one", "", "two"}, "Authorization": {"Bearer x"}, "X-Callback-Url": {"http://cb/x"},
			"X-Forwarded-For": {"10.1.1.1", "10.1.1.2"}, "Traceparent": {"00-1-2-3"}, "X-Call-Id": {"mine.1"},
			"Connection": {"keep-alive, X-Private", "Upgrade"}, "X-Private": {"p"}, "Upgrade": {"websocket"}, "Keep-Alive": {"5"},
			"Te": {"trailers"}, "Trailer": {"X-End"}, "Expect": {"100-continue"}, "Transfer-Encoding": {"chunked"},
			"Proxy-Authorization": {"Basic x"}, "Proxy-Connection": {"close"}, "Idempotency-Key": {"k:1"},
		}
	})
	if rec.Code != 202 || rec.Body.Len() != 0 {
		t.Fatalf("%d %q", rec.Code, rec.Body)
	}
	h := rec.Header()
	if h.Get("Location") != "/async-call/"+firstID.String() || h.Get("X-Call-Id") != "mine.1" || h.Get("X-Weir-Duplicate") != "" {
		t.Errorf("answer %v", h)
	}
	m := s.kept(t)
	if m.Accepted.Before(before) || h.Get("X-Start-Time") != fmt.Sprint(m.Accepted.UnixNano()) {
		t.Errorf("accepted %v, said %s", m.Accepted, h.Get("X-Start-Time"))
	}
	m.Accepted = time.Time{}
	want := &queue.Message{
		Function: function.Ref{Name: "echo", Namespace: "far"}, Method: "PATCH", Path: "//a%2Fb/?y=%20&y", Host: "some.host:81",
		Header: http.Header{
			"X-Many": {"one", "", "two"}, "Authorization": {"Bearer x"}, "X-Callback-Url": {"http://cb/x"}, "X-Call-Id": {"mine.1"},
			"X-Forwarded-For": {"10.1.1.1, 10.1.1.2, 192.0.2.7"}, "X-Forwarded-Host": {"some.host:81"}, "Traceparent": {"00-1-2-3"},
			"Idempotency-Key": {"k:1"},
		},
		Body: []byte("the \x00 body"), CallID: "mine.1", Callback: "http://cb/x",
	}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("kept\n%+v, want\n%+v", m, want)
	}
	if s.keys[0] != "k:1" {
		t.Errorf("key %q", s.keys)
	}
	if wakes, _ := w.provider.asked(); wakes != nil {
		t.Errorf("woke %v", wakes)
	}
}

func TestSubmitWithoutAnything(t *testing.T) {
	w, s := newAsyncWorld(t, nil)
	s.duplicate = true
	rec := w.ask("GET", "/async-function/asleep", "", nil)
	m := s.kept(t)
	if rec.Code != 202 || rec.Header().Get("X-Call-Id") != firstID.String() || rec.Header().Get("X-Weir-Duplicate") != "true" {
		t.Errorf("%d %v", rec.Code, rec.Header())
	}
	if m.Method != "GET" || m.Path != "/" || len(m.Body) != 0 || m.CallID != "" || s.keys[0] != "" {
		t.Errorf("%+v, key %q", m, s.keys)
	}
	if wakes, asks := w.provider.asked(); wakes != nil || asks != nil {
		t.Errorf("woke %v, scaled %v", wakes, asks)
	}
}

func TestSubmitRefuses(t *testing.T) {
	w, s := newAsyncWorld(t, func(c *Config) { c.AsyncMaxBody = 5 })
	header := func(name string, values ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header[name] = values }
	}
	for name, c := range map[string]struct {
		target, body string
		change       func(*http.Request)
		status       int
		says         string
	}{
		"unknown":     {"/async-function/nobody", "", nil, 404, "nobody.fn"},
		"no name":     {"/async-function/", "", nil, 400, ""},
		"call id":     {"/async-function/echo", "", header("X-Call-Id", "a b"), 400, "1 to 64"},
		"call ids":    {"/async-function/echo", "", header("X-Call-Id", "a", "b"), 400, "1 to 64"},
		"callback":    {"/async-function/echo", "", header("X-Callback-Url", "ftp://x"), 400, "X-Callback-Url: expected http"},
		"callbacks":   {"/async-function/echo", "", header("X-Callback-Url", "http://x", "http://x"), 400, "once"},
		"key":         {"/async-function/echo", "", header("Idempotency-Key", "a b"), 400, "1 to 255"},
		"keys":        {"/async-function/echo", "", header("Idempotency-Key", "a", "b"), 400, "1 to 255"},
		"long key":    {"/async-function/echo", "", header("Idempotency-Key", strings.Repeat("k", 256)), 400, "1 to 255"},
		"host":        {"/async-function/echo", "", func(r *http.Request) { r.Host = "a<b" }, 400, "Host"},
		"long body":   {"/async-function/echo", "123456", nil, 413, "5 bytes"},
		"long chunks": {"/async-function/echo", "123456", func(r *http.Request) { r.ContentLength = -1 }, 413, "WEIR_ASYNC_MAX_BODY"},
		"announced, unsent": {"/async-function/echo", "", func(r *http.Request) {
			r.Body, r.ContentLength = http.NoBody, 6
		}, 413, "5 bytes"},
	} {
		rec := w.ask("POST", c.target, c.body, c.change)
		if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.says) || rec.Header().Get("Location") != "" {
			t.Errorf("%s: %d %q, want %d %q", name, rec.Code, rec.Body, c.status, c.says)
		}
	}
	if s.messages != nil {
		t.Errorf("%d were kept", len(s.messages))
	}
	for body, n := range map[string]int{"": -1, "12345": -1, "1234": 4} {
		rec := w.ask("POST", "/async-function/echo", body, func(r *http.Request) { r.ContentLength = int64(n) })
		if rec.Code != 202 || string(s.kept(t).Body) != body {
			t.Errorf("%q: %d", body, rec.Code)
		}
	}
	if kept := w.lane(w.fleet.Get(function.Ref{Name: "echo", Namespace: "fn"})).kept.Load(); kept != 0 {
		t.Errorf("%d bytes count as kept", kept)
	}
}

func TestQueueThatCannot(t *testing.T) {
	var log strings.Builder
	w, s := newAsyncWorld(t, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	for _, c := range []struct {
		err    error
		status int
		retry  string
		says   string
	}{
		{queue.ErrFull, 503, "5", "was not taken"},
		{queue.ErrAway, 503, "5", "not known whether"},
		{context.DeadlineExceeded, 503, "5", "not known whether"},
		{queue.ErrTooLarge, 413, "", "larger"},
		{errors.New("secret of the store"), 500, "", "log"},
	} {
		w.lane(w.fleet.Get(function.Ref{Name: "echo", Namespace: "fn"})).told = time.Time{} // each is told
		log.Reset()
		s.fail(fmt.Errorf("nats://user:pass@host: %w", c.err))
		rec := w.ask("POST", "/async-function/echo", "x", nil)
		h := rec.Header()
		if rec.Code != c.status || h.Get("Retry-After") != c.retry || !strings.Contains(rec.Body.String(), c.says) {
			t.Errorf("%v: %d %v %s", c.err, rec.Code, h, rec.Body)
		}
		if strings.Contains(rec.Body.String(), "nats") || h.Get("Location")+h.Get("X-Call-Id") != "" {
			t.Errorf("%v: says %v %s", c.err, h, rec.Body)
		}
		if c.status >= 500 && !strings.Contains(log.String(), "nats://user:pass@host") {
			t.Errorf("%v: the log does not have what the store said: %s", c.err, log.String())
		}
	}
}

func TestNoCallbacks(t *testing.T) {
	w, _ := newAsyncWorld(t, func(c *Config) { c.CheckCallback = nil })
	rec := w.ask("POST", "/async-function/echo", "x", func(r *http.Request) { r.Header.Set("X-Callback-Url", "http://x") })
	if rec.Code != 400 || !strings.Contains(rec.Body.String(), "sends no callbacks") {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}

func TestAsyncCall(t *testing.T) {
	w, s := newAsyncWorld(t, nil)
	id := firstID.String()
	w.put(function.Ref{Name: strings.Repeat("b", 26) + "-7", Namespace: "fn"}, false)
	for _, c := range []struct {
		method, target string
		err            error
		status         int
		asked          string
		says           string
	}{
		{"GET", "/async-call/" + id, nil, 200, "call " + id, `"state":"running"`}, // also without: TestRoutesAreProtectedUnlessOpen
		{"HEAD", "/async-call/" + id + "?x", nil, 200, "call " + id, ""},
		{"GET", "/async-call/" + id, queue.ErrNotFound, 404, "call " + id, "no such call"},
		{"GET", "/async-call/" + id, queue.ErrAway, 503, "call " + id, "does not answer"},
		{"GET", "/async-call/" + id, fmt.Errorf("%w: %w", queue.ErrAway, queue.ErrNotOpen), 503, "call " + id, "says why: ask again later"},
		{"GET", "/async-call/x", nil, 404, "", "expected the ID"},
		{"GET", "/async-call/" + strings.ToUpper(id), nil, 404, "", "expected the ID"},
		{"GET", "/async-call/", nil, 404, "", "expected the ID"},
		{"GET", "/async-call/" + id + "/more", nil, 404, "", ""},
		{"POST", "/async-call/" + id, nil, 405, "", "GET, DELETE"},
		{"DELETE", "/async-call/" + id, nil, 200, "cancel " + id, `"reason":"cancelled"`},
		{"DELETE", "/async-call/" + id, queue.ErrEnded, 409, "cancel " + id, "has ended"},
		{"DELETE", "/async-call/" + id, queue.ErrNotFound, 404, "cancel " + id, "no such call"},
		{"DELETE", "/async-function/" + id, nil, 200, "cancel " + id, `"reason":"cancelled"`},
		{"DELETE", "/async-function/" + id, queue.ErrEnded, 409, "cancel " + id, "has ended"},
		{"GET", "/async-function/" + id, nil, 404, "", "no such function"},
		{"DELETE", "/async-function/" + id + "/", nil, 404, "", "no such function"},
		{"DELETE", "/async-function/" + strings.Repeat("b", 26) + "-7", nil, 202, "", ""}, // a function's name
	} {
		s.fail(c.err)
		if strings.HasPrefix(c.asked, "cancel ") {
			if rec := w.ask(c.method, c.target, "", nil); rec.Code != 401 || s.was() != "" {
				t.Errorf("%s %s without credentials: %d", c.method, c.target, rec.Code)
			}
		}
		rec := w.ask(c.method, c.target, "", withPassword)
		if asked := s.was(); rec.Code != c.status || asked != c.asked || !strings.Contains(rec.Body.String(), c.says) {
			t.Errorf("%s %s: %d %s, asked %q", c.method, c.target, rec.Code, rec.Body, asked)
		}
	}
}

func TestDeadLetters(t *testing.T) {
	w, s := newAsyncWorld(t, nil)
	for i := range 150 {
		s.letters = append(s.letters, queue.DeadLetter{Call: queue.Call{ID: fmt.Sprint(i)}, Place: uint64(10 + i)})
	}
	list := func(query string) (got deadLetterList, code int, asked string) {
		rec := w.ask("GET", "/system/dead-letters"+query, "", withPassword)
		if rec.Code == 200 {
			if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
		}
		return got, rec.Code, s.was()
	}
	for _, c := range []struct {
		query, asked string
		n            int
		next         uint64
	}{
		{"", "list . 0 100", 100, 109},
		{"?limit=1000&after=7", "list . 7 1000", 150, 0},
		{"?function=echo&limit=1", "list echo.fn 0 1", 1, 10},
		{"?function=gone.far", "list gone.far 0 100", 100, 109},
	} {
		got, code, asked := list(c.query)
		if code != 200 || len(got.DeadLetters) != c.n || got.Next != c.next || asked != c.asked {
			t.Errorf("%s: %d, %d, next %d, asked %q", c.query, code, len(got.DeadLetters), got.Next, asked)
		}
	}
	s.letters = nil
	if rec := w.ask("GET", "/system/dead-letters", "", withPassword); rec.Body.String() != "{\"deadLetters\":[]}\n" {
		t.Errorf("none: %s", rec.Body)
	}
	s.was()
	for _, query := range []string{"?function=A!", "?after=-1", "?after=x", "?limit=0", "?limit=1001", "?limit=x"} {
		if _, code, asked := list(query); code != 400 || asked != "" {
			t.Errorf("%s: %d, asked %q", query, code, asked)
		}
	}
	s.fail(queue.ErrAway)
	if _, code, _ := list(""); code != 503 {
		t.Errorf("away: %d", code)
	}
}

func TestDeadLetter(t *testing.T) {
	w, s := newAsyncWorld(t, nil)
	id := firstID.String()
	for _, c := range []struct {
		method, id string
		err        error
		status     int
		asked      string
		says       string
	}{
		{"GET", id, nil, 200, "letter " + id, `"body":"eA=="`},
		{"POST", id, nil, 202, "resend " + id, ""},
		{"DELETE", id, nil, 204, "drop " + id, ""},
		{"GET", id, queue.ErrNotFound, 404, "letter " + id, "no such dead letter"},
		{"GET", id, queue.ErrAway, 503, "letter " + id, "does not answer: ask again later"},
		{"DELETE", id, queue.ErrAway, 503, "drop " + id, "does not answer: ask again later"},
		{"POST", id, queue.ErrFull, 503, "resend " + id, "full"},
		{"POST", id, queue.ErrNotFound, 404, "resend " + id, "no such dead letter"},
		{"POST", id, fmt.Errorf("%w: %w", queue.ErrAway, queue.ErrNotOpen), 503, "resend " + id, "not open yet"},
		{"POST", id, queue.ErrUndecodable, 409, "resend " + id, "cannot be read"},
		{"POST", id, fmt.Errorf("send again: %w", function.ErrNotFound), 404, "resend " + id, "does not exist"},
		{"DELETE", id, queue.ErrNotFound, 404, "drop " + id, "no such dead letter"},
		{"POST", "x", nil, 404, "", "expected the ID"},
		{"PUT", id, nil, 405, "", "GET, POST, DELETE"},
	} {
		s.fail(c.err)
		rec := w.ask(c.method, "/system/dead-letters/"+c.id, "", withPassword)
		if asked := s.was(); rec.Code != c.status || asked != c.asked || !strings.Contains(rec.Body.String(), c.says) {
			t.Errorf("%s %s %v: %d %s, asked %q", c.method, c.id, c.err, rec.Code, rec.Body, asked)
		}
		want := ""
		if c.status == 202 {
			want = "/async-call/" + queue.ID{Nonce: firstID.Nonce, Seq: firstID.Seq + 1}.String()
		}
		if got := rec.Header().Get("Location"); got != want {
			t.Errorf("%s: Location %q", c.method, got)
		}
		if rec := w.ask(c.method, "/system/dead-letters/"+c.id, "", nil); rec.Code != 401 || s.was() != "" {
			t.Errorf("%s without password: %d", c.method, rec.Code)
		}
	}
}
