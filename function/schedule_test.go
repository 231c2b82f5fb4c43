package function

import (
	"testing"
	"time"
)

func schedule(t *testing.T, text string) *Schedule {
	t.Helper()
	s, err := parseSchedule([]byte(text), "UTC")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func at(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestScheduleIdleAfter(t *testing.T) {
	paris := schedule(t, `{"TimeZoneID":"Europe/Paris","Default":{"ScaleDownTimeout":[{"Time":"21:00","Value":10},{"Time":"07:00","Value":20}]}}`)
	once := schedule(t, `{"TimeZoneID":"Europe/Paris","Default":{"ScaleDownTimeout":[{"Time":"07:00","Value":20}]}}`)
	for _, row := range []struct {
		s    *Schedule
		now  string
		want time.Duration
	}{
		{paris, "2026-01-15T06:59:59+01:00", 10 * time.Second}, // since yesterday
		{paris, "2026-01-15T07:00:00+01:00", 20 * time.Second},
		{paris, "2026-01-15T20:59:59+01:00", 20 * time.Second},
		{paris, "2026-01-15T20:00:00Z", 10 * time.Second}, // 21:00 in Paris
		{paris, "2026-07-15T19:00:00Z", 10 * time.Second}, // 21:00 there in summer
		{paris, "2026-07-15T18:59:00Z", 20 * time.Second},
		{paris, "2026-01-15T00:00:00+01:00", 10 * time.Second},
		{once, "2026-01-15T03:00:00+01:00", 20 * time.Second}, // over midnight
		{schedule(t, `{}`), "2026-01-15T03:00:00Z", time.Minute},
		{nil, "2026-01-15T03:00:00Z", time.Minute},
	} {
		if got := row.s.IdleAfter(at(t, row.now), time.Minute); got != row.want {
			t.Errorf("at %s: %v, want %v", row.now, got, row.want)
		}
	}
}

func TestScheduleWake(t *testing.T) {
	wake := func(zone, times string) *Schedule {
		return schedule(t, `{"TimeZoneID":"`+zone+`","Default":{"WakeUp":[`+times+`]}}`)
	}
	for name, row := range map[string]struct {
		s               *Schedule
		now, last, next string
	}{
		"before the day's first": {
			wake("Europe/Paris", `"08:00","13:30"`), "2026-01-15T07:59:59+01:00",
			"2026-01-14T13:30:00+01:00", "2026-01-15T08:00:00+01:00",
		},
		"at the moment": {
			wake("Europe/Paris", `"08:00","13:30"`), "2026-01-15T08:00:00+01:00",
			"2026-01-15T08:00:00+01:00", "2026-01-15T13:30:00+01:00",
		},
		"after the day's last, over the year's end": {
			wake("Europe/Paris", `"08:00","13:30"`), "2026-12-31T23:59:00+01:00",
			"2026-12-31T13:30:00+01:00", "2027-01-01T08:00:00+01:00",
		},
		"it is another day there": {
			wake("Pacific/Auckland", `"07:00"`), "2026-06-10T20:00:00Z", // 08:00 on the 11th
			"2026-06-11T07:00:00+12:00", "2026-06-12T07:00:00+12:00",
		},
		// 2026-03-29 has no 02:30 in Paris: the clock goes from 02:00 to 03:00.
		"a time that does not exist": {
			wake("Europe/Paris", `"02:30"`), "2026-03-29T03:00:00+02:00",
			"2026-03-28T02:30:00+01:00", "2026-03-29T03:30:00+02:00",
		},
		"after a time that does not exist": {
			wake("Europe/Paris", `"02:30"`), "2026-03-29T03:30:00+02:00",
			"2026-03-29T03:30:00+02:00", "2026-03-30T02:30:00+02:00",
		},
		// 2026-10-25 has 02:30 twice: at 03:00 it is 02:00 again.
		"the first of two": {
			wake("Europe/Paris", `"02:30"`), "2026-10-25T02:29:59+02:00",
			"2026-10-24T02:30:00+02:00", "2026-10-25T02:30:00+02:00",
		},
		"no second of two": {
			wake("Europe/Paris", `"02:30"`), "2026-10-25T02:15:00+01:00",
			"2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00",
		},
		"a day of 23 hours": {
			wake("Europe/Paris", `"12:00"`), "2026-03-29T11:59:00+02:00",
			"2026-03-28T12:00:00+01:00", "2026-03-29T12:00:00+02:00",
		},
		"a day of 25 hours": {
			wake("Europe/Paris", `"12:00"`), "2026-10-25T11:59:00+01:00",
			"2026-10-24T12:00:00+02:00", "2026-10-25T12:00:00+01:00",
		},
		"half an hour of shift": {
			wake("Australia/Lord_Howe", `"02:15"`), "2026-10-04T02:30:00+11:00", // 02:00 becomes 02:30
			"2026-10-03T02:15:00+10:30", "2026-10-04T02:45:00+11:00",
		},
		// Samoa had no 30 December 2011 at all.
		"a day that does not exist": {
			wake("Pacific/Apia", `"08:00"`), "2011-12-29T12:00:00-10:00",
			"2011-12-29T08:00:00-10:00", "2011-12-31T08:00:00+14:00",
		},
	} {
		last, ok1 := row.s.LastWake(at(t, row.now))
		next, ok2 := row.s.NextWake(at(t, row.now))
		if !ok1 || !last.Equal(at(t, row.last)) {
			t.Errorf("%s: last %v %t, want %s", name, last, ok1, row.last)
		}
		if !ok2 || !next.Equal(at(t, row.next)) {
			t.Errorf("%s: next %v %t, want %s", name, next, ok2, row.next)
		}
	}
	for _, s := range []*Schedule{nil, schedule(t, `{}`)} {
		if last, ok := s.LastWake(time.Now()); ok {
			t.Errorf("no times, but last %v", last)
		}
		if next, ok := s.NextWake(time.Now()); ok {
			t.Errorf("no times, but next %v", next)
		}
	}
}

// TestScheduleWakesOnceADay steps through two years of minutes by way of
// NextWake, in zones with odd rules.
func TestScheduleWakesOnceADay(t *testing.T) {
	for _, zone := range []string{"Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Kathmandu", "UTC", "GB"} {
		for _, text := range []string{"00:00", "01:30", "02:00", "02:30", "23:59"} {
			s := schedule(t, `{"TimeZoneID":"`+zone+`","Default":{"WakeUp":["`+text+`"]}}`)
			now, _ := s.NextWake(time.Date(2025, 1, 1, 12, 0, 0, 0, s.Location))
			for range 730 {
				next, _ := s.NextWake(now)
				gap := next.Sub(now)
				if gap < 22*time.Hour || gap > 26*time.Hour {
					t.Fatalf("%s %s: after %v comes %v", zone, text, now.In(s.Location), next.In(s.Location))
				}
				if last, _ := s.LastWake(next); !last.Equal(next) {
					t.Fatalf("%s %s: the last at %v is %v", zone, text, next, last)
				}
				if last, _ := s.LastWake(next.Add(-1)); last.After(now) {
					t.Fatalf("%s %s: %v lies between %v and %v", zone, text, last, now, next)
				}
				now = next
			}
		}
	}
}
