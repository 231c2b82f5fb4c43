package queue_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/queue"
	"github.com/weir-run/weir/queue/queuetest"
)

const hook = "http://receiver.example/hook?k=v"

func TestCallbackTellsTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{MaxBody: 10}, queuetest.Config{}, func(*http.Request, int) (*http.Response, error) { return status(202) })
		m := &queue.Message{Function: function.Ref{Name: "figlet", Namespace: "fn"}, CallID: "trace-1", Callback: hook, Header: http.Header{queue.HeaderDepth: {"3"}}}
		state := &queue.Call{State: queue.Dead, Reason: "attempts\r\n", Code: 503, Attempts: 4, MaxAttempts: 4, Ended: time.Now()}
		answer := &queue.Answer{Began: true, Status: 503, Body: []byte("a long result"), Size: 5000, Took: 1500 * time.Millisecond, Header: http.Header{
			"Content-Type": {"a/b"}, "X-Own": {"1", "2"}, "Connection": {"X-Hop"}, "X-Hop": {"1"}, "Content-Length": {"5000"},
			"X-Function-Name": {"forged"}, "X-Weir-State": {"forged"}, "X-Call-Id": {"forged"}, "X-Watchdog-Reject": {"inflight"}}}
		id := callID(1)
		if got := s.of(id); got.State != queue.Queued {
			t.Errorf("before it is sent: %+v", got)
		}
		for range 2 { // the second one is of the same call: one callback
			if err := s.Put(context.Background(), m, id, state, answer); err != nil || s.memory.Items() != 1 {
				t.Fatalf("%v, %d items", err, s.memory.Items())
			}
		}
		drain, _ := begin(s.CallbackSender)
		defer drain()
		synctest.Wait()
		if s.network.sent() != 1 {
			t.Fatalf("sent %d times", s.network.sent())
		}
		got := s.network.first()
		if got.to != "POST "+hook || got.body != "a long res" {
			t.Errorf("%s with %q", got.to, got.body)
		}
		want := http.Header{"Content-Type": {"a/b"}, "X-Own": {"1", "2"}, "User-Agent": {"weir"},
			"X-Call-Id": {"trace-1"}, "X-Duration-Seconds": {"1.500000"}, "X-Function-Status": {"503"}, "X-Function-Name": {"figlet"},
			"X-Function-Namespace": {"fn"}, "X-Retry": {"3"}, "X-Retry-Max": {"4"}, "X-Weir-State": {"dead"}, "X-Weir-Reason": {"attempts  "},
			"X-Weir-Cut": {"body"}, "X-Weir-Body-Size": {"5000"}, queue.HeaderDepth: {"4"}}
		for name := range want {
			if !slices.Equal(got.head[name], want[name]) {
				t.Errorf("%s: %q, expected %q", name, got.head[name], want[name])
			}
		}
		if len(got.head) != len(want) {
			t.Errorf("header %v, expected %v", got.head, want)
		}
		if got := s.of(id); got != (queue.Callback{URL: hook, State: queue.Succeeded, Code: 202, Attempts: 1}) || s.memory.Items() != 0 {
			t.Errorf("%+v, %d items are left", got, s.memory.Items())
		}
	})
}

// A call that no handler began has no answer.
func TestCallbackOfACallThatExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{}, queuetest.Config{}, func(*http.Request, int) (*http.Response, error) { return status(200) })
		drain, _ := begin(s.CallbackSender)
		defer drain()
		m := &queue.Message{Function: function.Ref{Name: "f", Namespace: "fn"}, Callback: hook}
		if err := s.Put(context.Background(), m, callID(1), &queue.Call{State: queue.Dead, Reason: "expired"}, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.Put(context.Background(), &queue.Message{}, callID(2), &queue.Call{State: queue.Dead}, nil); err != nil || s.memory.Items() > 1 {
			t.Errorf("a call without a callback: %v, %d items", err, s.memory.Items())
		}
		synctest.Wait()
		got := s.network.first().head
		if got.Get("X-Function-Status") != "504" || got.Get("X-Weir-Reason") != "expired" || got.Get("X-Retry") != "0" || got.Get("X-Call-Id") != callID(1).String() {
			t.Errorf("%v", got)
		}
	})
}

func TestCallbackIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		answers := []func(r *http.Request) (*http.Response, error){
			func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") },
			func(*http.Request) (*http.Response, error) { return status(500) },
			func(*http.Request) (*http.Response, error) { return status(503, "Retry-After", "90") },
			func(*http.Request) (*http.Response, error) {
				return status(429, "Retry-After", began.Add(500*time.Second).UTC().Format(http.TimeFormat))
			},
			func(*http.Request) (*http.Response, error) { return status(429, "Retry-After", "0") },
			func(*http.Request) (*http.Response, error) { return status(408, "Retry-After", "7000") },
			never, // 30 seconds
			func(*http.Request) (*http.Response, error) { return status(503, "Retry-After", "soon") },
			func(*http.Request) (*http.Response, error) { return status(204) },
		}
		s := newSenders(t, queue.CallbackConfig{Retry: function.Retry{Attempts: 10, MinWait: 10 * time.Second, MaxWait: 100 * time.Second, Jitter: function.NoJitter}},
			queuetest.Config{}, func(r *http.Request, nth int) (*http.Response, error) { return answers[nth-1](r) })
		drain, _ := begin(s.CallbackSender)
		defer drain()
		id := s.give(1, hook)
		time.Sleep(5 * time.Second)
		if got := s.of(id); got.State != queue.Retrying || got.Attempts != 1 || got.Code != 0 || !strings.Contains(got.Reason, "connection refused") || !got.Next.Equal(began.Add(10*time.Second)) {
			t.Errorf("after the first: %+v", got)
		}
		time.Sleep(time.Hour)
		want := []time.Duration{0, 10, 30, 120, 500, 510, 610, 740, 840} // 0+10, 10+20, 30+90, the date, not below 10, 100, 30+100, 100
		for i := range want {
			want[i] *= time.Second
		}
		if got := s.network.times(); !slices.Equal(got, want) {
			t.Errorf("sent at %v, expected %v", got, want)
		}
		if got := s.of(id); got != (queue.Callback{URL: hook, State: queue.Succeeded, Code: 204, Attempts: 9}) || s.memory.Items() != 0 {
			t.Errorf("%+v, %d items are left", got, s.memory.Items())
		}
	})
}

func TestCallbackDefaultWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{}, queuetest.Config{}, func(*http.Request, int) (*http.Response, error) { return status(502) })
		drain, _ := begin(s.CallbackSender)
		defer drain()
		id := s.give(1, hook)
		time.Sleep(2 * time.Hour)
		want := []time.Duration{0}
		for _, wait := range []time.Duration{5, 10, 20, 40, 80, 160, 320, 600, 600} { // all of it: the test's chance is 0
			want = append(want, want[len(want)-1]+wait*time.Second)
		}
		if got := s.network.times(); !slices.Equal(got, want) {
			t.Errorf("sent at %v, expected %v", got, want)
		}
		if got := s.of(id); got.State != queue.Failed || got.Attempts != 10 || got.Code != 502 || !strings.Contains(got.Reason, "Bad Gateway") || !got.Next.IsZero() || s.memory.Items() != 0 {
			t.Errorf("%+v, %d items are left", got, s.memory.Items())
		}
		if !strings.Contains(s.log.String(), "callback given up") || strings.Contains(s.log.String(), "k=v") {
			t.Errorf("the log says %s", s.log.String())
		}
	})
}

func TestCallbackIsNotTriedAgain(t *testing.T) {
	for code, want := range map[int]string{301: "redirects are not followed", 307: "redirects", 304: "redirects", 400: "Bad Request", 404: "Not Found", 410: "Gone", 101: "Switching", 499: "answered 499"} {
		synctest.Test(t, func(t *testing.T) {
			s := newSenders(t, queue.CallbackConfig{}, queuetest.Config{}, func(*http.Request, int) (*http.Response, error) {
				return status(code, "Location", "http://169.254.169.254/")
			})
			drain, _ := begin(s.CallbackSender)
			defer drain()
			id := s.give(1, hook)
			time.Sleep(time.Hour)
			if got := s.of(id); got.State != queue.Failed || got.Code != code || got.Attempts != 1 || !strings.Contains(got.Reason, want) || s.network.sent() != 1 || s.memory.Items() != 0 {
				t.Errorf("%d: %+v, sent %d times, %d items", code, got, s.network.sent(), s.memory.Items())
			}
		})
	}
}

func TestCallbackExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{MaxAge: time.Hour}, queuetest.Config{}, func(*http.Request, int) (*http.Response, error) {
			return status(503, "Retry-After", "7200")
		})
		drain, _ := begin(s.CallbackSender)
		defer drain()
		id := s.give(1, hook)
		time.Sleep(59 * time.Minute)
		if got := s.of(id); got.State != queue.Retrying {
			t.Errorf("before: %+v", got)
		}
		time.Sleep(2 * time.Minute)
		if got := s.of(id); got.State != queue.Failed || got.Attempts > 2 || s.memory.Items() != 0 {
			t.Errorf("%+v, %d items", got, s.memory.Items())
		}
	})
}

func TestCallbackAttemptsSurviveAKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var killed atomic.Bool
		s := newSenders(t, queue.CallbackConfig{Retry: function.Retry{Attempts: 5, MinWait: 10 * time.Second, MaxWait: 10 * time.Second, Jitter: function.NoJitter}},
			queuetest.Config{Fault: func(string, queue.Lane) error {
				if killed.Load() {
					return queue.ErrAway // who is killed writes nothing more
				}
				return nil
			}}, func(*http.Request, int) (*http.Response, error) { return status(500) })
		id := s.give(1, hook)
		for range 20 {
			_, kill := begin(s.another())
			time.Sleep(7 * time.Second)
			killed.Store(true)
			kill()
			killed.Store(false)
		}
		if got := s.of(id); got.State != queue.Failed || got.Attempts != 5 || s.network.sent() != 5 {
			t.Errorf("%+v, sent %d times", got, s.network.sent())
		}
		at := s.network.times()
		for i := 1; i < len(at); i++ {
			if at[i]-at[i-1] < 10*time.Second {
				t.Errorf("sent at %v", at)
			}
		}
	})
}

// A store that is killed may lose how often something was delivered, and when
// it was to be delivered again. The callback's own state has both.
func TestCallbackKeepsItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{}, queuetest.Config{}, func(*http.Request, int) (*http.Response, error) {
			return status(503, "Retry-After", "600")
		})
		drain, _ := begin(s.CallbackSender)
		id := s.give(1, hook)
		time.Sleep(time.Second)
		drain()
		item, err := s.store.Get(context.Background(), 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.store.Put(context.Background(), queue.Callbacks, item.Data, ""); err != nil {
			t.Fatal(err)
		}
		if err := s.store.Remove(context.Background(), 1); err != nil {
			t.Fatal(err)
		}
		s.network.answerWith(200)
		drain, _ = begin(s.another())
		defer drain()
		time.Sleep(time.Hour)
		if got := s.of(id); got.State != queue.Succeeded || got.Attempts != 2 || !slices.Equal(s.network.times(), []time.Duration{0, 600 * time.Second}) {
			t.Errorf("%+v, sent at %v", got, s.network.times())
		}
	})
}

// What is written may be known only by half.
func TestCallbackThatArrivedIsNotSentAgain(t *testing.T) {
	for name, cfg := range map[string]func(fail func(method string) error) queuetest.Config{
		"the acknowledgement fails": func(fail func(string) error) queuetest.Config {
			return queuetest.Config{Fault: func(method string, _ queue.Lane) error { return fail(method) }}
		},
		"the acknowledgement's answer is lost": func(fail func(string) error) queuetest.Config {
			return queuetest.Config{Lost: func(method string, _ queue.Lane) error { return fail(method) }}
		},
	} {
		for _, method := range []string{"Ack", "Save"} {
			for _, with := range []error{queue.ErrAway, errors.New("odd")} {
				synctest.Test(t, func(t *testing.T) {
					began := time.Now()
					s := newSenders(t, queue.CallbackConfig{}, cfg(func(m string) error {
						if m == method && time.Since(began) < 10*time.Second {
							return with
						}
						return nil
					}), func(*http.Request, int) (*http.Response, error) { return status(200) })
					drain, _ := begin(s.CallbackSender)
					defer drain()
					id := s.give(1, hook)
					time.Sleep(5 * time.Minute)
					if got := s.of(id); got.State != queue.Succeeded || s.network.sent() != 1 || s.memory.Items() != 0 {
						t.Errorf("%s: %s, %v: %+v, sent %d times, %d items", name, method, with, got, s.network.sent(), s.memory.Items())
					}
				})
			}
		}
	}
}

// What is cut off is handed back at once, and was no attempt.
func TestCallbacksAbort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{}, queuetest.Config{}, func(r *http.Request, _ int) (*http.Response, error) { return never(r) })
		_, kill := begin(s.CallbackSender)
		id := s.give(1, hook)
		time.Sleep(time.Second)
		kill()
		s.network.answerWith(200)
		drain, _ := begin(s.another())
		defer drain()
		synctest.Wait()
		if got := s.of(id); got.State != queue.Succeeded || got.Attempts != 1 || s.network.sent() != 2 {
			t.Errorf("%+v, sent %d times", got, s.network.sent())
		}
	})
}

func TestCallbackThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{MaxAge: time.Hour}, queuetest.Config{}, nil)
		drain, _ := begin(s.CallbackSender)
		defer drain()
		if _, _, err := s.store.Put(context.Background(), queue.Callbacks, []byte{99, 1, 2}, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Minute)
		if s.memory.Items() != 1 || !strings.Contains(s.log.String(), "version 99") {
			t.Errorf("%d items; the log says %s", s.memory.Items(), s.log.String())
		}
		time.Sleep(2 * time.Minute)
		if s.memory.Items() != 0 || !strings.Contains(s.log.String(), "callback dropped") {
			t.Errorf("%d items; the log says %s", s.memory.Items(), s.log.String())
		}
	})
}
