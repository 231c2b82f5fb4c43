package function

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Schedule is SlimFaas's: times of day at which a function is woken, and idle
// times that differ by the hour. A nil one has neither.
type Schedule struct {
	Location *time.Location
	// WakeUp and IdleFrom are in the order of the day.
	WakeUp   []TimeOfDay
	IdleFrom []IdleFrom
}

// TimeOfDay counts from midnight, by the clock on the wall.
type TimeOfDay time.Duration

func (t TimeOfDay) String() string {
	minutes := time.Duration(t) / time.Minute
	return fmt.Sprintf("%02d:%02d", minutes/60, minutes%60)
}

// IdleFrom is the idle time that holds from At until the next one, over
// midnight too.
type IdleFrom struct {
	At    TimeOfDay
	After time.Duration
}

// IdleAfter is the idle time that holds at now, or def where no hour says one.
func (s *Schedule) IdleAfter(now time.Time, def time.Duration) time.Duration {
	if s == nil {
		return def
	}
	var since time.Time
	for _, from := range s.IdleFrom {
		if at := s.last(from.At, now); !at.Before(since) {
			since, def = at, from.After
		}
	}
	return def
}

// LastWake is the last wake-up time that is not after now; false where there
// are none.
func (s *Schedule) LastWake(now time.Time) (time.Time, bool) {
	if s == nil || len(s.WakeUp) == 0 {
		return time.Time{}, false
	}
	var last time.Time
	for _, t := range s.WakeUp {
		if at := s.last(t, now); at.After(last) {
			last = at
		}
	}
	return last, true
}

// NextWake is the first wake-up time after now; false where there are none.
func (s *Schedule) NextWake(now time.Time) (time.Time, bool) {
	if s == nil || len(s.WakeUp) == 0 {
		return time.Time{}, false
	}
	var next time.Time
	for i, t := range s.WakeUp {
		for day := -1; ; day++ {
			if at := s.instant(t, now, day); at.After(now) {
				if i == 0 || at.Before(next) {
					next = at
				}
				break
			}
		}
	}
	return next, true
}

// last is when the clock on the wall last showed t, at now at the latest.
func (s *Schedule) last(t TimeOfDay, now time.Time) time.Time {
	for day := 1; ; day-- {
		if at := s.instant(t, now, day); !at.After(now) {
			return at
		}
	}
}

// instant is when the clock shows t on a day, counted from now's. Where the
// clock shows it twice that day it is the first time; where it skips it, it is
// as long after the skipped hour as t is into it. That is what SlimFaas does;
// time.Date promises neither.
func (s *Schedule) instant(t TimeOfDay, now time.Time, day int) time.Time {
	year, month, date := now.In(s.Location).Date()
	wall := time.Date(year, month, date+day, 0, 0, 0, 0, time.UTC).Add(time.Duration(t))
	offset := func(at time.Time) time.Duration {
		_, seconds := at.In(s.Location).Zone()
		return time.Duration(seconds) * time.Second
	}
	before, after := offset(wall.Add(-24*time.Hour)), offset(wall.Add(24*time.Hour))
	early, late := wall.Add(-before), wall.Add(-after)
	if late.Before(early) {
		early, late = late, early
	}
	shown := func(at time.Time) bool { return at.Add(offset(at)).Equal(wall) }
	switch {
	case shown(early):
		return early
	case shown(late):
		return late
	}
	return wall.Add(-before)
}

// The JSON of SlimFaas. Its own reader takes names in any case too.
type scheduleJSON struct {
	TimeZoneID string
	Default    struct {
		WakeUp           []string
		ScaleDownTimeout []struct {
			Time  string
			Value int64
		}
	}
}

// maxTimes bounds the times of one list: one for each minute of the day.
const maxTimes = 24 * 60

// parseSchedule reads the JSON. Its error says what was expected.
func parseSchedule(text []byte, zone string) (*Schedule, error) {
	read := scheduleJSON{TimeZoneID: zone}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&read); err != nil {
		return nil, fmt.Errorf(`JSON such as {"TimeZoneID":"Europe/Paris","Default":{"WakeUp":["07:00"],"ScaleDownTimeout":[{"Time":"21:00","Value":60}]}}; %s`, clip(err.Error()))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("one JSON object and nothing after it")
	}
	if len(read.Default.WakeUp) > maxTimes || len(read.Default.ScaleDownTimeout) > maxTimes {
		return nil, fmt.Errorf("at most %d times in a list", maxTimes)
	}
	location, err := loadZone(read.TimeZoneID)
	if err != nil {
		return nil, err
	}
	s := &Schedule{Location: location}
	for _, text := range read.Default.WakeUp {
		t, err := parseTimeOfDay(text)
		if err != nil {
			return nil, err
		}
		s.WakeUp = append(s.WakeUp, t)
	}
	for _, from := range read.Default.ScaleDownTimeout {
		t, err := parseTimeOfDay(from.Time)
		if err != nil {
			return nil, err
		}
		if from.Value < 0 || from.Value > int64(MaxZeroAfter/time.Second) {
			return nil, fmt.Errorf("a Value at %s from 0 to %d seconds", t, MaxZeroAfter/time.Second)
		}
		s.IdleFrom = append(s.IdleFrom, IdleFrom{t, max(MinZeroAfter, time.Duration(from.Value)*time.Second)})
	}
	slices.Sort(s.WakeUp)
	s.WakeUp = slices.Compact(s.WakeUp)
	slices.SortStableFunc(s.IdleFrom, func(a, b IdleFrom) int { return cmp.Compare(a.At, b.At) })
	return s, nil
}

func parseTimeOfDay(text string) (TimeOfDay, error) {
	hour, minute, colon := strings.Cut(strings.TrimSpace(text), ":")
	h, err1 := strconv.ParseUint(hour, 10, 8)
	m, err2 := strconv.ParseUint(minute, 10, 8)
	if !colon || err1 != nil || err2 != nil || len(hour) > 2 || len(minute) != 2 || h > 23 || m > 59 {
		return 0, fmt.Errorf("times from 00:00 to 23:59, which %s is not", quote(text))
	}
	return TimeOfDay(time.Duration(h)*time.Hour + time.Duration(m)*time.Minute), nil
}

// zones keeps each zone once: they are some kilobytes each, and thousands of
// functions may name the same. It holds no more than the zones that exist.
var zones sync.Map // string → *time.Location

func loadZone(name string) (*time.Location, error) {
	if known, ok := zones.Load(name); ok {
		return known.(*time.Location), nil
	}
	location, err := time.LoadLocation(name)
	// "Local" would be another zone on every machine.
	if err != nil || name == "" || name == "Local" {
		return nil, fmt.Errorf("an IANA time zone such as Europe/Paris as TimeZoneID, which %s is not", quote(name))
	}
	known, _ := zones.LoadOrStore(name, location)
	return known.(*time.Location), nil
}

// maxQuoted bounds what of somebody's text is said back to them.
const maxQuoted = 128

func quote(s string) string { return strconv.Quote(clip(s)) }

func clip(s string) string {
	if len(s) > maxQuoted {
		s = s[:maxQuoted] + "…"
	}
	return s
}
