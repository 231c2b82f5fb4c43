package autoscaler

import (
	"fmt"
	"time"

	"github.com/weir-run/weir/function"
)

// Why is the Decision in a sentence, with the numbers that led to it.
func (d Decision) Why() string {
	switch d.Reason {
	case ReasonIdle:
		return fmt.Sprintf("nothing ran, waited or began for %s, of the %s that put it to sleep", whole(d.Idle), d.IdleAfter)
	case ReasonWake:
		return fmt.Sprintf("calls or messages found it asleep for %s: %s", LostWake, d.numbers())
	case ReasonSchedule:
		return "its schedule says to wake it now"
	case ReasonAsleep:
		return "asleep, and nothing asks for it"
	case ReasonFixed:
		return "its replicas run elsewhere and cannot be changed"
	case ReasonAutoscaled:
		return "another autoscaler has its replicas while it is awake"
	case ReasonNoData:
		return fmt.Sprintf("none of the %d started pods could be read%s", d.Started, d.messages())
	case ReasonBounds:
		if d.From == 0 {
			return fmt.Sprintf("0 asked for, and it may not sleep (weir/zero is not set): %d to %d", d.Floor, d.Max)
		}
		return fmt.Sprintf("%d asked for, outside of the %d to %d that it may have", d.From, d.Floor, d.Max)
	case ReasonIncomplete:
		return d.kept("not every pod was read")
	case ReasonUnknown:
		return d.kept(fmt.Sprintf("%d of its pods could not be read", d.Unknown))
	case ReasonPeers:
		return d.kept("not every other weir could be read")
	case ReasonUnready:
		return d.kept("a pod that is not ready, and would go first, has something in flight")
	}
	return d.numbers()
}

func (d Decision) kept(cause string) string {
	if d.Wanted == 0 {
		return fmt.Sprintf("idle for %s and not put to sleep: %s", whole(d.Idle), cause)
	}
	return fmt.Sprintf("not lowered to %d: %s; %s", d.Wanted, cause, d.numbers())
}

func (d Decision) numbers() string {
	panicking := ""
	if d.Panicking {
		panicking = ", in panic"
	}
	return fmt.Sprintf("%.4g %s (mean of %s %.4g, of %s %.4g), %.4g to each replica: %d of %d to %d, %d started%s%s",
		d.Load, unit(d.Type), StableWindow, d.Stable, PanicWindow, d.Panic, d.Target,
		d.Wanted, d.Floor, d.Max, d.Started, panicking, d.messages())
}

// messages is what is to be said of a backlog.
func (d Decision) messages() string {
	if d.Backlog == 0 {
		return ""
	}
	return fmt.Sprintf(", %d async messages ready to run", d.Backlog)
}

// unit is what a load of the type is counted in.
func unit(t function.ScaleType) string {
	switch t {
	case function.RPS:
		return "requests a second"
	case function.CPU:
		return "milli-CPU"
	case function.Queue:
		return "calls and messages"
	}
	return "calls at once"
}

func whole(d time.Duration) time.Duration { return d.Round(time.Second) }
