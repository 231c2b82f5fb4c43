package watchdog

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTurnsAreToldOnce(t *testing.T) {
	var lines []string
	turns := newTurns(func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) })
	now := time.Unix(0, 0)
	see := func(status int, reason string, times int) {
		for range times {
			turns.see(now, status, reason)
			now = now.Add(turnPoll)
		}
	}
	see(200, "ready", 3)
	see(429, "3 requests wait, ready_queue is 2", 3)
	see(429, "4 requests wait, ready_queue is 2", 3)
	see(503, "memory: past its mark", 3)
	see(200, "ready", 3)
	want := []string{
		"/_/ready answers 429: 3 requests wait, ready_queue is 2",
		"/_/ready answers 503: memory: past its mark",
		"/_/ready answers 200 again",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got  %q\nwant %q", lines, want)
	}
}

// Readiness that flaps for an hour leaves some lines, which say that it does,
// and the state at the end of it.
func TestTurnsThatFlapAreBounded(t *testing.T) {
	var lines []string
	turns := newTurns(func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) })
	now := time.Unix(0, 0)
	const hour = int(time.Hour / turnPoll)
	for i := range hour {
		turns.see(now, []int{200, 429}[i/3%2], "max_inflight reached")
		now = now.Add(turnPoll)
	}
	if n, most := len(lines), turnLines+int(time.Hour/turnPause)+1; n > most || n < most/2 {
		t.Errorf("%d lines, want at most %d", n, most)
	}
	if last := lines[len(lines)-1]; !strings.Contains(last, "turned ") {
		t.Errorf("%q does not say that readiness flaps", last)
	}
	for range 2 * turnPause / turnPoll {
		turns.see(now, 429, "max_inflight reached")
		now = now.Add(turnPoll)
	}
	if turns.told != 429 {
		t.Error("the state after it is not told")
	}
	// Once it has been quiet there is room again.
	lines, now = nil, now.Add(turnLines*turnPause)
	for i := range turnLines {
		turns.see(now, []int{200, 429}[i%2], "max_inflight reached")
	}
	if len(lines) != turnLines {
		t.Errorf("%d lines after a quiet time, want %d", len(lines), turnLines)
	}
}

func TestTurnsAreToldWithoutProbes(t *testing.T) {
	inside, leave := make(chan struct{}), make(chan struct{})
	s := startInproc(t, func(w http.ResponseWriter, r *http.Request) { inside <- struct{}{}; <-leave }, "max_inflight=1")
	wait := occupy(t, s.url, 1, inside)
	eventually(t, "the log tells that readiness is gone", func() bool {
		return strings.Contains(s.log.String(), "/_/ready answers 429: max_inflight reached\n")
	})
	close(leave)
	wait()
	eventually(t, "the log tells that readiness is back", func() bool {
		return strings.Contains(s.log.String(), "/_/ready answers 200 again\n")
	})
}
