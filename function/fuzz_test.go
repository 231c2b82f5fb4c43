package function

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// check returns what of a Spec is out of its bounds.
func check(s *Spec) error {
	switch {
	case s.Min < 1 || s.Min > s.Max || s.Max > MaxReplicas:
		return fmt.Errorf("min %d, max %d", s.Min, s.Max)
	case s.AtStart < 0 || s.AtStart > s.Max:
		return fmt.Errorf("at start %d of %d", s.AtStart, s.Max)
	case s.AwakeReplicas() < 1 || s.AwakeReplicas() > s.Max:
		return fmt.Errorf("awake %d of %d", s.AwakeReplicas(), s.Max)
	case !(s.Proportion >= MinProportion && s.Proportion <= 1):
		return fmt.Errorf("proportion %g", s.Proportion)
	case !(s.Target >= 0 && s.Target <= MaxTarget) || !(s.TargetFor(0) > 0) || !(s.TargetFor(3) > 0):
		return fmt.Errorf("target %g, %g", s.Target, s.TargetFor(0))
	case s.ZeroAfter < MinZeroAfter || s.ZeroAfter > MaxZeroAfter:
		return fmt.Errorf("zero after %v", s.ZeroAfter)
	case s.DownWindow < 0 || s.DownWindow > MaxDownWindow:
		return fmt.Errorf("down window %v", s.DownWindow)
	case s.Type != Capacity && s.Type != RPS && s.Type != CPU && s.Type != Queue:
		return fmt.Errorf("type %q", s.Type)
	case s.Concurrency < 0 || s.AsyncConcurrency < 0 || s.Concurrency > MaxConcurrency || s.AsyncConcurrency > MaxConcurrency:
		return fmt.Errorf("concurrency %d, %d", s.Concurrency, s.AsyncConcurrency)
	case s.Port < 0 || s.Port > 65535 || s.MetricsPort < 0 || s.MetricsPort > 65535:
		return fmt.Errorf("ports %d, %d", s.Port, s.MetricsPort)
	case len(s.DependsOn) > MaxDependsOn:
		return fmt.Errorf("%d dependencies", len(s.DependsOn))
	}
	if err := checkRetry(&s.Retry); err != nil {
		return err
	}
	for _, ref := range s.DependsOn {
		if again, err := ParseRef(ref.String(), ""); err != nil || again != ref {
			return fmt.Errorf("depends on %q", ref)
		}
	}
	return nil
}

func checkRetry(r *Retry) error {
	switch {
	case r.Attempts < 1 || r.Attempts > MaxRetryAttempts:
		return fmt.Errorf("%d attempts", r.Attempts)
	case r.MinWait < 0 || r.MinWait > r.MaxWait || r.MaxWait > MaxRetryWait:
		return fmt.Errorf("waits of %v to %v", r.MinWait, r.MaxWait)
	case r.Jitter != FullJitter && r.Jitter != EqualJitter && r.Jitter != NoJitter:
		return fmt.Errorf("jitter %q", r.Jitter)
	case len(r.Codes) == 0:
		return errors.New("no codes")
	}
	for i, code := range r.Codes {
		if code < 300 || code > 599 || i > 0 && code <= r.Codes[i-1] {
			return fmt.Errorf("codes %v", r.Codes)
		}
	}
	return nil
}

// FuzzParse takes lines of PLACE KEY VALUE.
func FuzzParse(f *testing.F) {
	f.Add("0 weir/function true\n0 weir/min 3\n2 weir/max 2\n1 com.openfaas.scale.zero true")
	f.Add("3 faas_function x\n0 com.openfaas.scale.type cpu\n0 com.openfaas.scale.target 500m\n0 com.openfaas.scale.target-proportion 1e-300")
	f.Add("2 SlimFaas/Function True\n2 SlimFaas/ReplicasMin 0\n2 SlimFaas/NumberParallelRequestPerPod 5\n2 SlimFaas/DependsOn a,b.c,..\n0 weir/mim 2")
	f.Add("2 SlimFaas/Function true\n2 SlimFaas/Schedule {\"TimeZoneID\":\"Europe/Paris\",\"Default\":{\"WakeUp\":[\"07:00\"]}}")
	f.Add("0 weir/function true\n0 weir/zero-after 2562047h47m16.854775807s\n0 weir/down-window -1\n0 weir/at-start 10000\n0 weir/min 10000")
	f.Add("1 faas_function x\n0 com.openfaas.retry.attempts 0\n0 com.openfaas.retry.codes 429,,500\n0 com.openfaas.retry.min_wait 9h\n2 weir/retry-max-wait 3\n3 weir/retry-jitter exponential")
	f.Fuzz(func(t *testing.T, text string) {
		src := Sources{Kind: KindDeployment, Namespace: "ns", Name: "f"}
		maps := []*map[string]string{&src.Annotations, &src.Labels, &src.TemplateAnnotations, &src.TemplateLabels}
		for line := range strings.SplitSeq(text, "\n") {
			place, rest, _ := strings.Cut(line, " ")
			key, value, _ := strings.Cut(rest, " ")
			if len(place) != 1 || place[0] < '0' || place[0] > '3' {
				continue
			}
			m := maps[place[0]-'0']
			if *m == nil {
				*m = map[string]string{}
			}
			(*m)[key] = value
		}
		spec, is, faults := Parse(src)
		for _, fault := range faults {
			if fault.Object == "" || fault.Key == "" || fault.Expected == "" || len(fault.String()) > 4096+len(fault.Key) {
				t.Errorf("fault %v", fault)
			}
		}
		if !is {
			return
		}
		if err := check(&spec); err != nil {
			t.Errorf("%v of %+v", err, spec)
		}
		if again, _, _ := Parse(src); fmt.Sprint(again) != fmt.Sprint(spec) && spec.Schedule == nil {
			t.Errorf("not the same twice: %+v, %+v", spec, again)
		}
	})
}

func FuzzSchedule(f *testing.F) {
	f.Add(`{"TimeZoneID":"Europe/Paris","Default":{"WakeUp":["02:30"],"ScaleDownTimeout":[{"Time":"21:00","Value":10}]}}`, int64(1774746000))
	f.Add(`{"TimeZoneID":"Pacific/Apia","Default":{"WakeUp":["00:00","23:59"]}}`, int64(1325203200))
	f.Add(`{"Default":{"ScaleDownTimeout":[{"Time":"00:00","Value":0}]}}`, int64(-5))
	f.Fuzz(func(t *testing.T, text string, unix int64) {
		s, err := parseSchedule([]byte(text), "UTC")
		if err != nil {
			if s != nil || len(err.Error()) > 1024 {
				t.Errorf("%v: %.2000s", s, err)
			}
			return
		}
		// Within the years that Go's zones are about.
		now := time.Unix(unix%(8000*365*24*3600), 0)
		if idle := s.IdleAfter(now, time.Hour); idle < MinZeroAfter || idle > MaxZeroAfter {
			t.Errorf("idle after %v", idle)
		}
		last, ok1 := s.LastWake(now)
		next, ok2 := s.NextWake(now)
		if ok1 != ok2 || ok1 != (len(s.WakeUp) > 0) {
			t.Errorf("last %t, next %t of %v", ok1, ok2, s.WakeUp)
		}
		if ok1 && (last.After(now) || !next.After(now) || now.Sub(last) > 50*time.Hour || next.Sub(now) > 50*time.Hour) {
			t.Errorf("last %v, now %v, next %v", last, now, next)
		}
	})
}

func FuzzParseRef(f *testing.F) {
	f.Add("figlet", "openfaas-fn")
	f.Add("figlet.other", "")
	f.Add("a..b", "x")
	f.Add(strings.Repeat("a", 64), "-")
	f.Fuzz(func(t *testing.T, text, namespace string) {
		ref, err := ParseRef(text, namespace)
		if err != nil {
			if ref != (Ref{}) || len(err.Error()) > 1024 {
				t.Errorf("%v: %v", ref, err)
			}
			return
		}
		if !label(ref.Name) || !label(ref.Namespace) {
			t.Errorf("%q in %q is %+v", text, namespace, ref)
		}
		if again, err := ParseRef(ref.String(), "elsewhere"); err != nil || again != ref {
			t.Errorf("%v reads back as %v, %v", ref, again, err)
		}
	})
}
