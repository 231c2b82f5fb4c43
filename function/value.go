package function

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Readers of single values. Each says what it expected, or nothing when it
// understood.

func readMin(d *draft, v value) string { return readInt(&d.Min, v, 0, MaxReplicas) }
func readMax(d *draft, v value) string { return readInt(&d.Max, v, 1, MaxReplicas) }

func readAtStart(d *draft, v value) string { return readInt(&d.AtStart, v, 0, MaxReplicas) }

func readConcurrency(d *draft, v value) string {
	return readInt(&d.Concurrency, v, fewest(v), MaxConcurrency)
}

func readAsyncConcurrency(d *draft, v value) string {
	return readInt(&d.AsyncConcurrency, v, fewest(v), MaxConcurrency)
}

// fewest is 1 in SlimFaas, which knows no "none".
func fewest(v value) int {
	if v.by == slimfaas {
		return 1
	}
	return 0
}

func readPort(d *draft, v value) string        { return readInt(&d.Port, v, 1, 65535) }
func readMetricsPort(d *draft, v value) string { return readInt(&d.MetricsPort, v, 1, 65535) }

func readInt(to *int, v value, least, most int) string {
	n, err := strconv.Atoi(v.text)
	if err != nil || n < least || n > most {
		return fmt.Sprintf("a whole number from %d to %d", least, most)
	}
	*to = n
	return ""
}

func readType(d *draft, v value) string {
	t := ScaleType(strings.ToLower(v.text))
	if !slices.Contains([]ScaleType{Capacity, RPS, CPU, Queue}, t) {
		return "one of capacity, rps, cpu, queue"
	}
	d.Type = t
	return ""
}

func readTarget(d *draft, v value) string {
	counts := d.Type == Capacity || d.Type == Queue
	if v.by == slimfaas {
		n := 0
		expected := readInt(&n, v, 1, MaxConcurrency)
		if expected == "" && counts {
			d.Target = float64(n)
		}
		return expected
	}
	text := v.text
	if d.Type == CPU {
		text = strings.TrimSuffix(text, "m")
	}
	f, ok := readFloat(text)
	switch {
	case ok && f > 0 && f <= MaxTarget:
		d.Target = f
		return ""
	case d.Type == CPU:
		return fmt.Sprintf("milli-CPU of one replica, more than 0 and at most %d, such as 500 or 500m", MaxTarget)
	}
	return fmt.Sprintf("a number of more than 0 and at most %d", MaxTarget)
}

func readProportion(d *draft, v value) string {
	f, ok := readFloat(v.text)
	if !ok || f < MinProportion || f > 1 {
		return "a share from 0.01 to 1"
	}
	d.Proportion = f
	return ""
}

// readFloat takes decimals only: no NaN, no infinity, no hexadecimal.
func readFloat(text string) (float64, bool) {
	if strings.Trim(text, "0123456789.eE+-") != "" {
		return 0, false
	}
	f, err := strconv.ParseFloat(text, 64)
	return f, err == nil
}

func readZero(d *draft, v value) string         { return readFlag(&d.zero, v) }
func readStartWithAny(d *draft, v value) string { return readFlag(&d.StartWithAny, v) }

func readFlag(to *bool, v value) string {
	b, ok := readBool(v.text)
	if !ok {
		return plain(acceptsBool)
	}
	*to = b
	return ""
}

func readBool(text string) (value, ok bool) {
	b, err := strconv.ParseBool(strings.ToLower(text))
	return b, err == nil
}

func readZeroAfter(d *draft, v value) string {
	t, ok := readDuration(v.text)
	if v.by == slimfaas {
		seconds, err := strconv.Atoi(v.text)
		if err != nil || seconds < 0 || seconds > int(MaxZeroAfter/time.Second) {
			return "whole seconds from 0 to " + strconv.Itoa(int(MaxZeroAfter/time.Second))
		}
		t, ok = max(MinZeroAfter, time.Duration(seconds)*time.Second), true
	}
	if !ok || t < MinZeroAfter || t > MaxZeroAfter {
		return plain(acceptsDuration) + ", from 1s to 8760h"
	}
	d.ZeroAfter = t
	return ""
}

func readDownWindow(d *draft, v value) string {
	if strings.EqualFold(v.text, "off") {
		d.DownWindow = 0
		return ""
	}
	t, ok := readDuration(v.text)
	if !ok || t < 0 || t > MaxDownWindow {
		return plain(acceptsDuration) + ", at most 1h, or off"
	}
	d.DownWindow = t
	return ""
}

// readDuration takes a Go duration, or whole seconds.
func readDuration(text string) (time.Duration, bool) {
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		return time.Duration(n) * time.Second, true
	}
	t, err := time.ParseDuration(text)
	return t, err == nil
}

// readDependsOn takes the names that are names; each other one is a fault of
// its own place, and the rest still counts.
func readDependsOn(d *draft, v value) string {
	names := strings.Split(v.text, ",")
	if strings.HasPrefix(v.text, "[") {
		names = nil
		if err := json.Unmarshal([]byte(v.text), &names); err != nil {
			return "names of functions between commas, or a JSON list of them"
		}
	}
	var bad []string
	var refs []Ref
	for _, name := range names {
		name = strings.TrimSpace(name)
		if name == "" {
			continue
		}
		ref, err := ParseRef(name, d.src.Namespace)
		switch {
		case err != nil:
			bad = append(bad, name)
		case !slices.Contains(refs, ref):
			refs = append(refs, ref)
		}
	}
	if len(refs) > MaxDependsOn {
		return fmt.Sprintf("at most %d names of functions", MaxDependsOn)
	}
	if len(bad) > 0 {
		d.fault(v, "NAME or NAME.NAMESPACE between commas, which "+quote(bad[0])+" is not; the others are taken")
	}
	d.DependsOn, d.DependsOnKey = refs, v.key
	return ""
}

func readSchedule(d *draft, v value) string {
	zone := "UTC"
	if v.by == slimfaas {
		zone = "GB" // SlimFaas's default
	}
	s, err := parseSchedule([]byte(v.text), zone)
	if err != nil {
		return err.Error()
	}
	d.Schedule = s
	return ""
}
