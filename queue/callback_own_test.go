package queue_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/queue"
	"github.com/weir-run/weir/queue/queuetest"
)

// submitted are the calls that callbacks became.
type submitted struct {
	mu   sync.Mutex
	keys map[string]queue.ID
	came []*queue.Message
	// fail is what the first of them get.
	fail []error
}

func (s *submitted) submit(_ context.Context, m *queue.Message, key string) (queue.ID, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.fail) > 0 {
		err := s.fail[0]
		s.fail = s.fail[1:]
		return queue.ID{}, false, err
	}
	if id, ok := s.keys[key]; ok {
		return id, true, nil
	}
	s.came = append(s.came, m)
	id := queue.ID{Nonce: queue.Nonce{0xff}, Seq: 1000 + uint64(len(s.came))}
	s.keys[key] = id
	return id, false, nil
}

func (s *submitted) all() []*queue.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.came
}

func newOwn(t *testing.T, store queuetest.Config, fail ...error) (*senders, *submitted) {
	t.Helper()
	s := newSenders(t, queue.CallbackConfig{Own: []string{"weir.apps:8080"}}, store, func(*http.Request, int) (*http.Response, error) { return status(200) })
	own := &submitted{keys: map[string]queue.ID{}, fail: fail}
	s.submit = own.submit
	return s, own
}

func TestCallbackToItselfIsACall(t *testing.T) {
	for _, path := range []string{"/function/sink.other/a%2Fb?x=y", "/async-function/sink.other/a%2Fb?x=y"} {
		synctest.Test(t, func(t *testing.T) {
			s, own := newOwn(t, queuetest.Config{}, queue.ErrFull, queue.ErrAway)
			drain, _ := begin(s.CallbackSender)
			defer drain()
			id := s.give(1, "http://WEIR.apps:8080"+path)
			synctest.Wait()
			if len(own.all()) != 0 || s.of(id).State != queue.Queued {
				t.Errorf("with a full queue: %d calls, %+v", len(own.all()), s.of(id))
			}
			time.Sleep(time.Minute)
			if len(own.all()) != 1 || s.network.sent() != 0 || s.memory.Items() != 0 {
				t.Fatalf("%d calls, sent %d times, %d items", len(own.all()), s.network.sent(), s.memory.Items())
			}
			m := own.all()[0]
			if m.Function != (function.Ref{Name: "sink", Namespace: "other"}) || m.Method != "POST" || m.Path != "/a%2Fb?x=y" || m.Host != "WEIR.apps:8080" ||
				string(m.Body) != "result" || m.CallID != "trace-1" || m.Callback != "" || m.Accepted.IsZero() {
				t.Errorf("%+v", m)
			}
			for name, want := range map[string]string{"Content-Type": "text/plain", "X-Function-Status": "200", "X-Function-Name": "figlet", "X-Call-Id": "trace-1", queue.HeaderDepth: "1"} {
				if got := m.Header.Get(name); got != want {
					t.Errorf("%s: %q", name, got)
				}
			}
			if got := s.of(id); got.State != queue.Succeeded || got.Code != 202 || got.Attempts != 1 || got.Call != (queue.ID{Nonce: queue.Nonce{0xff}, Seq: 1001}).String() {
				t.Errorf("%+v", got)
			}
		})
	}
}

// Killed between the call's submit and its own acknowledgement, a callback is
// one call all the same.
func TestCallbackToItselfIsOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s, own := newOwn(t, queuetest.Config{Fault: func(method string, _ queue.Lane) error {
			if (method == "Save" || method == "Retry") && time.Since(began) < 10*time.Second {
				return queue.ErrAway
			}
			return nil
		}})
		id := s.give(1, "http://weir.apps:8080/function/sink")
		_, kill := begin(s.CallbackSender)
		time.Sleep(time.Second)
		kill()
		drain, _ := begin(s.another())
		defer drain()
		time.Sleep(time.Minute)
		if got := s.of(id); got.State != queue.Succeeded || len(own.all()) != 1 || s.memory.Items() != 0 {
			t.Errorf("%+v, %d calls, %d items", got, len(own.all()), s.memory.Items())
		}
	})
}

// A function that answers with an X-Callback-Url to itself would run for ever.
func TestCallbacksDoNotLoop(t *testing.T) {
	const self = "http://weir.apps:8080/async-function/echo"
	synctest.Test(t, func(t *testing.T) {
		s, own := newOwn(t, queuetest.Config{})
		drain, _ := begin(s.CallbackSender)
		defer drain()
		m := &queue.Message{Function: function.Ref{Name: "echo", Namespace: "fn"}, Callback: self}
		var id queue.ID
		calls := 0
		for m.Callback != "" && calls < 100 {
			calls++
			id = callID(calls)
			answer := &queue.Answer{Status: 200, Header: http.Header{"X-Callback-Url": {self}, http.CanonicalHeaderKey(queue.HeaderDepth): {"0"}}}
			if err := s.Put(context.Background(), m, id, &queue.Call{State: queue.Succeeded, Code: 200, Ended: time.Now()}, answer); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if len(own.all()) < calls {
				break
			}
			m = own.all()[calls-1]
		}
		if calls != queue.MaxCallbackDepth+1 {
			t.Errorf("the chain had %d calls", calls)
		}
		if got := s.of(id); got.State != queue.Failed || got.Attempts != 0 || !strings.Contains(got.Reason, fmt.Sprint(queue.MaxCallbackDepth)) {
			t.Errorf("%+v", got)
		}
	})
}

// An X-Callback-Url of an answer is looked at as that of a request is.
func TestCallbackOfACallbackIsChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, own := newOwn(t, queuetest.Config{})
		drain, _ := begin(s.CallbackSender)
		defer drain()
		answer := &queue.Answer{Status: 200, Header: http.Header{"X-Callback-Url": {"http://169.254.169.254/"}}}
		for i, path := range []string{"/async-function/sink", "/function/sink"} {
			id := callID(i)
			m := &queue.Message{Function: function.Ref{Name: "f", Namespace: "fn"}, Callback: "http://weir.apps:8080" + path}
			if err := s.Put(context.Background(), m, id, &queue.Call{State: queue.Succeeded, Code: 200, Ended: time.Now()}, answer); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			got := s.of(id)
			if i == 0 && (got.State != queue.Failed || got.Code != 400 || !strings.Contains(got.Reason, "169.254.169.254") || len(own.all()) != 0) {
				t.Errorf("%+v, %d calls", got, len(own.all()))
			}
			if i == 1 && (got.State != queue.Succeeded || len(own.all()) != 1 || own.all()[0].Callback != "") {
				t.Errorf("%+v, %d calls", got, len(own.all()))
			}
		}
	})
}

func TestCallbackTooLargeForACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newOwn(t, queuetest.Config{}, fmt.Errorf("%w: 9 bytes", queue.ErrTooLarge))
		drain, _ := begin(s.CallbackSender)
		defer drain()
		id := s.give(1, "http://weir.apps:8080/function/sink")
		synctest.Wait()
		if got := s.of(id); got.State != queue.Failed || got.Code != 413 || s.memory.Items() != 0 {
			t.Errorf("%+v, %d items", got, s.memory.Items())
		}
	})
}

// Settings change, and weirs differ: what was accepted may be refused later.
func TestCallbackIsCheckedWhenItIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, own := newOwn(t, queuetest.Config{})
		drain, _ := begin(s.CallbackSender)
		defer drain()
		id := s.give(1, "ftp://receiver.example/")
		other := s.give(2, "http://weir.apps:8080/system/functions")
		synctest.Wait()
		for _, id := range []queue.ID{id, other} {
			if got := s.of(id); got.State != queue.Failed || got.Attempts != 0 || got.Reason == "" {
				t.Errorf("%+v", got)
			}
		}
		if len(own.all()) != 0 || s.network.sent() != 0 || s.memory.Items() != 0 {
			t.Errorf("%d calls, sent %d times, %d items", len(own.all()), s.network.sent(), s.memory.Items())
		}
	})
}
