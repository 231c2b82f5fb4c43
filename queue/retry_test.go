package queue

import (
	"math"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/weir-run/weir/function"
)

func TestTriedAgain(t *testing.T) {
	rules := function.Retry{Codes: []int{408, 429, 503}}
	for _, row := range []struct {
		answer Answer
		want   bool
	}{
		{Answer{Status: 408}, true},
		{Answer{Status: 429}, true},
		{Answer{Status: 503}, true},
		{Answer{Status: 500}, false},
		{Answer{Status: 200}, false},
		{Answer{Status: 404}, false},
		{Answer{Status: 0}, false},
		// No answer of the function's: its codes say nothing about that.
		{Answer{Status: 502, Reason: "cut"}, true},
		{Answer{Status: 200, Reason: "cut"}, true},
		{Answer{Reason: "the pod is gone"}, true},
	} {
		row.answer.Began = true
		if got := triedAgain(&rules, &row.answer); got != row.want {
			t.Errorf("%+v: %t", row.answer, got)
		}
	}
	if triedAgain(&function.Retry{}, &Answer{Began: true, Status: 500}) {
		t.Error("tried again without codes")
	}
}

func always(r float64) func() float64 { return func() float64 { return r } }

func TestBackOff(t *testing.T) {
	const s = time.Second
	usual := function.Retry{MinWait: 10 * s, MaxWait: 120 * s, Jitter: function.NoJitter}
	with := func(j function.Jitter) function.Retry { r := usual; r.Jitter = j; return r }
	slim := function.Retry{MinWait: 2 * s, MaxWait: 8 * s, Jitter: function.NoJitter}
	for _, row := range []struct {
		rules  function.Retry
		n      int
		random float64
		want   time.Duration
	}{
		{usual, 1, 0.5, 10 * s},
		{usual, 2, 0.5, 20 * s},
		{usual, 3, 0.5, 40 * s},
		{usual, 4, 0.5, 80 * s},
		{usual, 5, 0.5, 120 * s},
		{usual, 6, 0.5, 120 * s},
		{usual, 64, 0.5, 120 * s},
		{usual, 65, 0.5, 120 * s},
		{usual, math.MaxInt, 0.5, 120 * s},
		// Not a retry at all.
		{usual, 0, 0.5, 10 * s},
		{usual, math.MinInt, 0.5, 10 * s},

		{slim, 1, 0.5, 2 * s},
		{slim, 2, 0.5, 4 * s},
		{slim, 3, 0.5, 8 * s},
		{slim, 4, 0.5, 8 * s},

		{with(function.FullJitter), 2, 0, 0},
		{with(function.FullJitter), 2, 0.25, 5 * s},
		{with(function.FullJitter), 9, 0.5, 60 * s},
		{with(function.EqualJitter), 2, 0, 20 * s},
		{with(function.EqualJitter), 2, 0.5, 15 * s},
		{with(function.EqualJitter), 9, 0.5, 90 * s},
		{with(""), 2, 0.5, 20 * s},

		// At once, however often.
		{function.Retry{MaxWait: s}, 1, 0.5, 0},
		{function.Retry{MaxWait: s}, 100, 0.5, 0},
		// MaxWait is the last word, and nothing overflows.
		{function.Retry{MinWait: 5 * s, MaxWait: 3 * s}, 1, 0.5, 3 * s},
		{function.Retry{MinWait: 1, MaxWait: math.MaxInt64}, 63, 0.5, 1 << 62},
		{function.Retry{MinWait: 1, MaxWait: math.MaxInt64}, 64, 0.5, math.MaxInt64},
		{function.Retry{MinWait: 3, MaxWait: math.MaxInt64}, 63, 0.5, math.MaxInt64},
		{function.Retry{MinWait: math.MaxInt64, MaxWait: math.MaxInt64}, 2, 0.5, math.MaxInt64},
		{function.Retry{MinWait: -s, MaxWait: -s}, 2, 0.5, 0},
		// A random source out of its mind.
		{with(function.FullJitter), 1, 2, 10 * s},
		{with(function.FullJitter), 1, -1, 0},
		{with(function.FullJitter), 1, math.NaN(), 0},
		{with(function.EqualJitter), 1, math.Inf(1), 5 * s},
	} {
		if got := backOff(&row.rules, row.n, always(row.random)); got != row.want {
			t.Errorf("%+v, retry %d, random %g: %v, want %v", row.rules, row.n, row.random, got, row.want)
		}
	}
}

// TestBackOffHolds: whatever the rules, a wait is within its bounds, jitter
// only shortens it, and the next one is never shorter but for the jitter.
func TestBackOffHolds(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 5))
	for range 20_000 {
		rules := function.Retry{MinWait: time.Duration(r.Int64() >> r.IntN(63)), Jitter: function.NoJitter}
		rules.MaxWait = rules.MinWait + time.Duration(r.Int64N(math.MaxInt64-int64(rules.MinWait))>>r.IntN(63))
		n := 1 + r.IntN(1<<r.IntN(20))
		whole, next := backOff(&rules, n, r.Float64), backOff(&rules, n+1, r.Float64)
		if whole < rules.MinWait || next < whole || next > rules.MaxWait || whole < rules.MaxWait/2 && next != 2*whole {
			t.Fatalf("%+v: retry %d after %v, the next after %v", rules, n, whole, next)
		}
		rules.Jitter = function.FullJitter
		if got := backOff(&rules, n, r.Float64); got < 0 || got > whole {
			t.Fatalf("%+v: retry %d after %v of %v", rules, n, got, whole)
		}
		rules.Jitter = function.EqualJitter
		if got := backOff(&rules, n, r.Float64); got < whole/2 || got > whole {
			t.Fatalf("%+v: retry %d after %v of %v", rules, n, got, whole)
		}
	}
}

// TestJitterSpreads: the mean of full jitter is half of the wait, that of equal
// jitter three quarters, and waits are found in every tenth of their range.
func TestJitterSpreads(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 5))
	for jitter, least := range map[function.Jitter]float64{function.FullJitter: 0, function.EqualJitter: 0.5} {
		rules := function.Retry{MinWait: time.Hour, MaxWait: time.Hour, Jitter: jitter}
		const times = 10_000
		var tenths [10]int
		sum := 0.0
		for range times {
			wait := float64(backOff(&rules, 1, r.Float64)) / float64(time.Hour)
			sum += wait
			tenths[min(9, int((wait-least)/(1-least)*10))]++
		}
		if mean := sum / times; math.Abs(mean-(1+least)/2) > 0.02 {
			t.Errorf("%s: mean %g", jitter, mean)
		}
		for i, n := range tenths {
			if n < times/20 {
				t.Errorf("%s: %d of %d in tenth %d", jitter, n, times, i)
			}
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 4, 10, 9, 46, 30, 0, time.UTC)
	const min = 10 * time.Second
	for _, row := range []struct {
		status int
		text   string
		want   time.Duration
		asked  bool
	}{
		{429, "30", 30 * time.Second, true},
		{503, "30", 30 * time.Second, true},
		{503, " 30 ", 30 * time.Second, true},
		{429, "0030", 30 * time.Second, true},
		// Longer than MaxWait too.
		{429, "3600", time.Hour, true},
		// Never below MinWait.
		{429, "3", min, true},
		{429, "0", min, true},
		// Longer than anything is kept.
		{429, "99999999999", maxRetryAfter, true},
		{429, "99999999999999999999999999", maxRetryAfter, true},
		// As a date, in each of its three forms.
		{429, "Fri, 10 Apr 2026 09:47:00 GMT", 30 * time.Second, true},
		{503, "Friday, 10-Apr-26 09:47:00 GMT", 30 * time.Second, true},
		{503, "Fri Apr 10 09:47:00 2026", 30 * time.Second, true},
		{429, "Fri, 10 Apr 2026 09:46:31 GMT", min, true},
		{429, "Thu, 09 Apr 2026 09:47:00 GMT", min, true},
		{429, "Fri, 31 Dec 9999 23:59:59 GMT", maxRetryAfter, true},
		{429, "Mon, 01 Jan 0001 00:00:00 GMT", min, true},
		// Of other answers it says something else.
		{500, "30", 0, false},
		{502, "30", 0, false},
		{301, "30", 0, false},
		{200, "30", 0, false},
		{0, "30", 0, false},
		// What cannot be read.
		{429, "", 0, false},
		{429, "-30", 0, false},
		{429, "+30", 0, false},
		{429, "1.5", 0, false},
		{429, "1e3", 0, false},
		{429, "30s", 0, false},
		{429, "0x10", 0, false},
		{429, "tomorrow", 0, false},
		{429, "2026-04-10T09:47:00Z", 0, false},
		{429, "Fri, 10 Apr 2026 09:47:00 +0200", 0, false},
	} {
		rules := function.Retry{MinWait: min, MaxWait: 2 * time.Minute}
		h := http.Header{}
		if row.text != "" {
			h.Set("Retry-After", row.text)
		}
		if got, asked := retryAfter(&rules, row.status, h, now); got != row.want || asked != row.asked {
			t.Errorf("%d with Retry-After %q: %v, %t; want %v, %t", row.status, row.text, got, asked, row.want, row.asked)
		}
	}
	// The first of several, and none at all.
	several := http.Header{"Retry-After": {"40", "50"}}
	if got, asked := retryAfter(&function.Retry{}, 429, several, now); got != 40*time.Second || !asked {
		t.Errorf("of %v: %v, %t", several, got, asked)
	}
	if got, asked := retryAfter(&function.Retry{}, 503, nil, now); got != 0 || asked {
		t.Errorf("without a header: %v, %t", got, asked)
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, text := range []string{"30", "99999999999999999999", "Fri, 10 Apr 2026 09:47:00 GMT", "-1", "Monday, 01-Jan-70 00:00:00 GMT"} {
		f.Add(text, int64(1775814390), int64(time.Second))
	}
	f.Fuzz(func(t *testing.T, text string, now, least int64) {
		rules := function.Retry{MinWait: min(max(0, time.Duration(least)), function.MaxRetryWait)}
		got, asked := retryAfter(&rules, 429, http.Header{"Retry-After": {text}}, time.Unix(now%(1<<40), 0))
		if asked && (got < rules.MinWait || got > maxRetryAfter) || !asked && got != 0 {
			t.Errorf("%q: %v, %t", text, got, asked)
		}
	})
}
