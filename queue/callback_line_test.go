package queue_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/queue"
	"github.com/weir-run/weir/queue/queuetest"
)

// A receiver that is dead holds its few places, and all others go on.
func TestDeadReceiverHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{}, queuetest.Config{}, func(r *http.Request, _ int) (*http.Response, error) {
			if strings.HasPrefix(r.URL.Host, "dead") {
				return never(r)
			}
			time.Sleep(100 * time.Millisecond)
			return status(200)
		})
		for i := range 200 {
			s.give(i, fmt.Sprintf("http://dead-%d.example/", i%3))
		}
		s.network.start = time.Now()
		_, kill := begin(s.CallbackSender)
		defer kill()
		for i := range 40 {
			s.give(200+i, "http://well.example/")
		}
		time.Sleep(2 * time.Second) // 40 × 100 ms in 8 places are half a second
		if n := s.network.at("well.example"); n != 40 {
			t.Errorf("%d of 40 were sent in 2 s", n)
		}
		time.Sleep(10 * time.Minute)
		for host, most := range s.network.atOnce() {
			if most > queue.AtReceiver {
				t.Errorf("%d at once at %s", most, host)
			}
		}
		if most := s.network.atOnce()["dead-0.example"]; most != queue.AtReceiver {
			t.Errorf("a dead one had %d at once", most)
		}
	})
}

// Hundreds for a receiver that is dead cost the store little, and when it is
// back they arrive.
func TestDeadReceiverCostsLittle(t *testing.T) {
	const many, hours = 300, 1
	synctest.Test(t, func(t *testing.T) {
		var handedBack atomic.Int64
		s := newSenders(t, queue.CallbackConfig{}, queuetest.Config{Fault: func(method string, _ queue.Lane) error {
			if method == "Retry" {
				handedBack.Add(1)
			}
			return nil
		}}, func(r *http.Request, _ int) (*http.Response, error) { return never(r) })
		for i := range many {
			s.give(i, hook)
		}
		drain, _ := begin(s.CallbackSender)
		defer drain()
		time.Sleep(hours * time.Hour)
		// Put off for two and a half minutes at least, a few rounds at the
		// beginning aside.
		if n := handedBack.Load(); n > many*(hours*24+6) {
			t.Errorf("%d were handed back %d times in an hour", many, n)
		}
		s.network.answerWith(200)
		time.Sleep(20 * time.Minute)
		if n := s.memory.Items(); n > 0 {
			t.Errorf("%d have not arrived", n)
		}
	})
}

func TestCallbacksAtOnceAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{}, queuetest.Config{}, func(r *http.Request, _ int) (*http.Response, error) { return never(r) })
		for i := range 250 {
			s.give(i, fmt.Sprintf("http://dead-%d.example/", i/4))
		}
		_, kill := begin(s.CallbackSender)
		time.Sleep(29 * time.Second)
		if n := s.network.sent(); n != queue.AtOnce {
			t.Errorf("%d at once, expected %d", n, queue.AtOnce)
		}
		kill()
	})
}

// With more than there is room for, every one gets its turn.
func TestCallbacksOfOneReceiverAllArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{}, queuetest.Config{}, func(*http.Request, int) (*http.Response, error) {
			time.Sleep(50 * time.Millisecond)
			return status(200)
		})
		drain, _ := begin(s.CallbackSender)
		defer drain()
		for i := range 250 {
			s.give(i, hook)
		}
		for s.memory.Items() > 0 && time.Since(s.network.start) < time.Minute {
			time.Sleep(10 * time.Millisecond)
		}
		// 250 × 50 ms in 8 places are 1.6 s.
		if took := time.Since(s.network.start); took > 5*time.Second || s.network.sent() != 250 {
			t.Errorf("%d sent in %v", s.network.sent(), took)
		}
	})
}

// The lease is 15 s, the receiver takes 29 s.
func TestCallbackIsSentOnceWhileItLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{}, queuetest.Config{}, func(*http.Request, int) (*http.Response, error) {
			time.Sleep(29 * time.Second)
			return status(200)
		})
		drain, _ := begin(s.CallbackSender)
		defer drain()
		other, _ := begin(s.another())
		defer other()
		for i := range 20 { // some of them wait at hand for their turn
			s.give(i, hook)
		}
		time.Sleep(3 * time.Hour)
		if s.network.sent() != 20 || s.memory.Items() != 0 {
			t.Errorf("sent %d times, %d items", s.network.sent(), s.memory.Items())
		}
	})
}

func TestCallbacksDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSenders(t, queue.CallbackConfig{}, queuetest.Config{}, func(*http.Request, int) (*http.Response, error) {
			time.Sleep(20 * time.Second)
			return status(200)
		})
		drain, _ := begin(s.CallbackSender)
		for i := range 12 { // eight run, four wait at hand
			s.give(i, hook)
		}
		time.Sleep(time.Second)
		go func() {
			time.Sleep(time.Second)
			s.network.answerWith(200)
			_, kill := begin(s.another())
			time.Sleep(time.Minute)
			kill()
		}()
		drain()
		if took := time.Since(s.network.start); took != 20*time.Second {
			t.Errorf("drained after %v", took)
		}
		if s.network.sent() != 12 || s.network.times()[8] != 2*time.Second {
			t.Errorf("sent at %v", s.network.times())
		}
		time.Sleep(2 * time.Minute)
		if s.network.sent() != 12 || s.memory.Items() != 0 {
			t.Errorf("sent %d times, %d items", s.network.sent(), s.memory.Items())
		}
	})
}
