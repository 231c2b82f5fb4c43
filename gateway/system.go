package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// functionStatus is OpenFaaS's.
type functionStatus struct {
	Name        string              `json:"name"`
	Image       string              `json:"image"`
	Namespace   string              `json:"namespace,omitempty"`
	EnvProcess  string              `json:"envProcess,omitempty"`
	EnvVars     map[string]string   `json:"envVars,omitempty"`
	Constraints []string            `json:"constraints,omitempty"`
	Secrets     []string            `json:"secrets,omitempty"`
	Labels      map[string]string   `json:"labels,omitempty"`
	Annotations map[string]string   `json:"annotations,omitempty"`
	Limits      *function.Resources `json:"limits,omitempty"`
	Requests    *function.Resources `json:"requests,omitempty"`
	ReadOnly    bool                `json:"readOnlyRootFilesystem,omitempty"`

	InvocationCount   float64   `json:"invocationCount,omitempty"`
	Replicas          uint64    `json:"replicas,omitempty"`
	AvailableReplicas uint64    `json:"availableReplicas,omitempty"`
	CreatedAt         time.Time `json:"createdAt,omitzero"`
}

// description is what weir says more of one function than OpenFaaS does.
type description struct {
	functionStatus
	// Autoscaling is what was decided last, and why.
	Autoscaling any              `json:"autoscaling,omitempty"`
	Faults      []function.Fault `json:"faults,omitempty"`
	Pods        []podStatus      `json:"pods,omitempty"`
}

// podStatus is a pod by what it says of itself and what its provider knows.
type podStatus struct {
	Name string `json:"name"`
	// State is starting, started or stopping; Nature watchdog, plain or
	// unknown.
	State  string `json:"state"`
	Nature string `json:"nature"`
	// Room: it takes the next call. Guarded: it takes none, for want of memory,
	// descriptors, processes or disk.
	Room    bool `json:"room"`
	Guarded bool `json:"guarded,omitempty"`
	// Reason is why it does not serve, where that is known.
	Reason   string `json:"reason,omitempty"`
	LastExit string `json:"lastExit,omitempty"`
}

func podsOf(e *fleet.Entry) (all []podStatus) {
	for _, p := range e.Pods() {
		about, said := p.About(), p.Said()
		all = append(all, podStatus{
			Name: about.Name, State: p.State().String(), Nature: said.Nature.String(),
			Room: said.Room, Guarded: said.Guarded, Reason: cmp.Or(about.Reason, p.Unreached()), LastExit: about.LastExit,
		})
	}
	return all
}

func (g *Gateway) statusOf(e *fleet.Entry) functionStatus {
	fn := e.Function()
	about := &fn.About
	return functionStatus{
		Name: fn.Name, Image: about.Image, Namespace: fn.Namespace,
		EnvProcess: about.EnvProcess, EnvVars: about.EnvVars,
		Constraints: about.Constraints, Secrets: about.Secrets,
		Labels: about.Labels, Annotations: about.Annotations,
		Limits: about.Limits, Requests: about.Requests, ReadOnly: about.ReadOnly,
		InvocationCount:   float64(g.invocations(fn.Ref)),
		Replicas:          uint64(max(0, fn.Replicas)),
		AvailableReplicas: uint64(e.Started()),
		CreatedAt:         fn.Created,
	}
}

// list is of one namespace, weir's own where none is asked for.
func (a *api) list(w http.ResponseWriter, q *request) {
	namespace := cmp.Or(q.URL.Query().Get("namespace"), a.g.cfg.Namespace)
	if _, err := function.ParseRef("x", namespace); err != nil {
		say(w, http.StatusBadRequest, fmt.Sprintf("no namespace's name: %.64q", namespace))
		return
	}
	if !a.complete() {
		unread(w)
		return
	}
	all := []functionStatus{}
	for e := range a.g.cfg.Fleet.All() {
		if e.Function().Namespace == namespace {
			all = append(all, a.g.statusOf(e))
		}
	}
	slices.SortFunc(all, func(a, b functionStatus) int { return cmp.Compare(a.Name, b.Name) })
	sayJSON(w, all)
}

func (a *api) describe(w http.ResponseWriter, q *request) {
	fn := q.entry.Function()
	d := description{functionStatus: a.g.statusOf(q.entry)}
	if explain := a.g.cfg.Explain; explain != nil {
		d.Autoscaling = explain(fn.Ref)
	}
	d.Faults = slices.Concat(fn.Faults, sortedFaults(ignored(a.g.cfg.Fleet), func(e function.Edge) bool { return e.From == fn.Ref }))
	d.Pods = podsOf(q.entry)
	sayJSON(w, d)
}

func (a *api) namespaces(w http.ResponseWriter, _ *request) {
	if !a.complete() {
		unread(w)
		return
	}
	all := map[string]bool{a.g.cfg.Namespace: true}
	for e := range a.g.cfg.Fleet.All() {
		all[e.Function().Namespace] = true
	}
	sayJSON(w, slices.Sorted(maps.Keys(all)))
}

func (a *api) info(w http.ResponseWriter, _ *request) {
	version := map[string]string{"sha": a.g.cfg.Commit, "release": a.g.cfg.Version}
	sayJSON(w, map[string]any{
		"provider": map[string]any{"provider": "weir", "orchestration": a.g.cfg.Orchestration, "version": version},
		"version":  version,
	})
}

const (
	// maxScaleBody bounds a scale request, which is three short fields.
	maxScaleBody = 16 << 10
	// scaleTimeout bounds what the provider may take over it.
	scaleTimeout = 10 * time.Second
)

// scale sets the replicas by hand. The autoscaler goes on from there.
func (a *api) scale(w http.ResponseWriter, q *request) {
	var body struct {
		ServiceName string
		Namespace   string
		Replicas    *uint64
	}
	err := json.NewDecoder(http.MaxBytesReader(w, q.Body, maxScaleBody)).Decode(&body)
	var long *http.MaxBytesError
	switch {
	case errors.As(err, &long):
		say(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("more than %d bytes", maxScaleBody))
		return
	case err != nil && !errors.Is(err, io.EOF), body.Replicas == nil:
		say(w, http.StatusBadRequest, `expected JSON such as {"serviceName":"NAME","replicas":2}`)
		return
	}
	// faas-cli names the namespace in the body.
	if a.find(w, q, cmp.Or(q.URL.Query().Get("namespace"), body.Namespace, a.g.cfg.Namespace)) != 0 {
		return
	}
	fn := q.entry.Function()
	if body.ServiceName != "" && body.ServiceName != fn.Name && body.ServiceName != fn.Ref.String() {
		say(w, http.StatusBadRequest, fmt.Sprintf("the path names %s, and serviceName %.64q", fn.Ref, body.ServiceName))
		return
	}
	if *body.Replicas > uint64(fn.Spec.Max) {
		say(w, http.StatusBadRequest, fmt.Sprintf("%d replicas are more than the function's max, which is %d", *body.Replicas, fn.Spec.Max))
		return
	}
	replicas := int(*body.Replicas)
	ctx, cancel := context.WithTimeout(q.Context(), scaleTimeout)
	defer cancel()
	if err := a.g.cfg.Provider.Scale(ctx, fn.Ref, replicas, ""); err != nil {
		a.refuseScale(w, fn.Ref, err)
		return
	}
	a.g.cfg.Log.Info("scaled by hand", slog.String("function", fn.Ref.String()),
		slog.Int("from", fn.Replicas), slog.Int("to", replicas), slog.String("peer", q.RemoteAddr))
	w.WriteHeader(http.StatusAccepted)
}

func (a *api) refuseScale(w http.ResponseWriter, ref function.Ref, err error) {
	status := http.StatusServiceUnavailable
	switch {
	case errors.Is(err, function.ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, function.ErrFixed), errors.Is(err, function.ErrConflict):
		status = http.StatusConflict
	case errors.Is(err, function.ErrForbidden):
		status = http.StatusInternalServerError
	default:
		w.Header().Set("Retry-After", "1")
	}
	say(w, status, fmt.Sprintf("scale %s: %v", ref, err))
}

// What OpenFaaS's clients may ask for and weir leaves to others.

func deploys(_ *api, w http.ResponseWriter, _ *request) {
	say(w, http.StatusNotImplemented, "weir deploys nothing: apply a manifest (kubectl apply -f), or write the function into the stack.yaml that weir was started with")
}

func namespacing(_ *api, w http.ResponseWriter, _ *request) {
	say(w, http.StatusNotImplemented, "weir makes no namespaces: apply a manifest (kubectl create namespace), and name it in WEIR_NAMESPACE")
}

func secrets(_ *api, w http.ResponseWriter, _ *request) {
	say(w, http.StatusNotImplemented, "weir keeps no secrets: apply a manifest (kubectl create secret), and mount it in the function's")
}

func logs(_ *api, w http.ResponseWriter, _ *request) {
	say(w, http.StatusNotImplemented, "weir keeps no logs of functions: kubectl logs has them, or with WEIR_PROVIDER=local the output of weir")
}
