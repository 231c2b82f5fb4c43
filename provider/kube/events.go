package kube

import (
	"context"
	"errors"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/record/util"

	"github.com/weir-run/weir/function"
)

const (
	// maxEvents may wait to be written; one more is dropped, for they are only
	// told.
	maxEvents = 1024
	// eventTries bounds how often one is written before the next has its turn.
	eventTries   = 4
	eventTimeout = 5 * time.Second
	// The API server takes no longer ones.
	maxReason, maxMessage = 128, 1024
)

// events writes Events, in their turn. client-go's correlator joins those that
// repeat and thins out those of one object: 25 at once, then one in 5 minutes.
type events struct {
	cfg   Config
	said  *complaints
	queue chan event
}

type event struct {
	subject
	function.Event
	at time.Time
}

func newEvents(cfg Config, said *complaints) *events {
	return &events{cfg: cfg, said: said, queue: make(chan event, maxEvents)}
}

func (e *events) put(s subject, what function.Event) {
	select {
	case e.queue <- event{s, what, time.Now()}:
	default:
	}
}

// Event puts something before the function's owner. It never blocks.
func (p *Provider) Event(ref function.Ref, e function.Event) {
	if t, err := p.view.find(ref); err == nil {
		p.events.put(subject{workloadKey{t.kind, ref.Name}, ref.Namespace, t.uid}, e)
	}
}

// tell is Event for what every weir finds: only the one that leads says it.
func (p *Provider) tell(s subject, e function.Event) bool {
	if !p.lease.held() {
		return false
	}
	p.events.put(s, e)
	return true
}

func (e *events) run(ctx context.Context, client coreclient.EventsGetter) {
	correlator := record.NewEventCorrelatorWithOptions(record.CorrelatorOptions{})
	for {
		select {
		case <-ctx.Done():
			return
		case next := <-e.queue:
			e.write(ctx, client, correlator, e.event(next))
		}
	}
}

func (e *events) event(from event) *corev1.Event {
	kind := corev1.EventTypeNormal
	if from.Warning {
		kind = corev1.EventTypeWarning
	}
	at := metav1.NewTime(from.at)
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: util.GenerateEventName(from.name, from.at.UnixNano()), Namespace: from.namespace},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "apps/v1", Kind: from.kind, Name: from.name, Namespace: from.namespace, UID: from.uid,
		},
		Type: kind, Reason: cut(from.Reason, maxReason), Message: cut(from.Message, maxMessage),
		Source:              corev1.EventSource{Component: "weir", Host: e.cfg.Identity},
		ReportingController: "weir", ReportingInstance: cut(e.cfg.Identity, 128),
		FirstTimestamp: at, LastTimestamp: at, Count: 1,
	}
}

func (e *events) write(ctx context.Context, client coreclient.EventsGetter, correlator *record.EventCorrelator, ev *corev1.Event) {
	result, err := correlator.EventCorrelate(ev)
	if err != nil || result.Skip {
		return
	}
	ev = result.Event
	var pause backoff
	for range eventTries {
		written, err := e.store(ctx, client, ev, result.Patch)
		if err == nil {
			correlator.UpdateState(written)
			return
		}
		if status := apierrors.APIStatus(nil); errors.As(err, &status) && !apierrors.IsServerTimeout(err) && !apierrors.IsTooManyRequests(err) {
			return // it was understood, and not wanted
		}
		if !pause.wait(ctx) {
			return
		}
	}
}

// store makes an Event, or counts one that is there already.
func (e *events) store(ctx context.Context, client coreclient.EventsGetter, ev *corev1.Event, patch []byte) (*corev1.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	if ev.Count > 1 {
		written, err := client.Events(ev.Namespace).Patch(ctx, ev.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
		if !apierrors.IsNotFound(err) { // then it is too old, and was removed
			e.said.hear(call{"patch", "events", ev.Namespace}, err)
			return written, err
		}
	}
	ev.ResourceVersion = ""
	written, err := client.Events(ev.Namespace).Create(ctx, ev, metav1.CreateOptions{FieldManager: fieldManager})
	e.said.hear(call{"create", "events", ev.Namespace}, err)
	return written, err
}

// cut shortens a text to at most n bytes, between two characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	n -= len("…")
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
