package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/weir-run/weir/function"
)

func jitter(most time.Duration) time.Duration { return rand.N(most + 1) }

// call is one thing asked of the API server, in the terms of RBAC.
type call struct{ verb, resource, namespace string }

// reads says whether it is about all objects of a kind, not one.
func (c call) reads() bool { return c.verb == "list" || c.verb == "watch" }

func (c call) String() string {
	where := "in namespace " + c.namespace
	if c.namespace == everywhere {
		where = "in all namespaces"
	}
	return c.verb + " " + c.resource + " " + where
}

// explain makes of the API server's error one of package function's.
func (c call) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: %s: %w; %s", function.ErrForbidden, c, err, c.remedy())
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%w: %s: %w; the token or certificate is not (or no longer) one that the API server knows", function.ErrForbidden, c, err)
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w: %s: %w", function.ErrNotFound, c, err)
	case apierrors.IsConflict(err):
		return fmt.Errorf("%w: %s: %w", function.ErrConflict, c, err)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return fmt.Errorf("%s: %w", c, err)
	}
	return fmt.Errorf("%w: %s: %w", function.ErrUnavailable, c, err)
}

func (c call) remedy() string {
	kind := "Role in namespace " + c.namespace
	if c.namespace == everywhere {
		kind = "ClusterRole"
	}
	return fmt.Sprintf("give weir's service account a %s that may %s %s, as weir's chart does", kind, c.verb, c.resource)
}

// complaints says what is wrong once, for as long as it is wrong, however many
// calls meet it.
type complaints struct {
	log *slog.Logger
	mu  sync.Mutex
	of  map[string]*complaint
}

type complaint struct {
	// since is when it was first heard of those in a row; said, and when last.
	since time.Time
	said  bool
	at    time.Time
}

const (
	// apiAway is what every call that gets no proper answer complains of.
	apiAway = "api server"
	// repeatAfter is the least time between two lines on one thing that
	// comes and goes.
	repeatAfter = time.Minute
	// sureAfter is for how long a refusal is heard before it is believed: an
	// API server that has just started refuses before it has read its roles.
	sureAfter = 2 * time.Second
)

func newComplaints(log *slog.Logger) *complaints {
	return &complaints{log: log, of: map[string]*complaint{}}
}

// hear takes how a call ended and says whether it was refused for good.
func (c *complaints) hear(what call, err error) (refused bool) {
	switch {
	case err == nil:
		c.clear(apiAway, "The API server answers again")
		c.clear(what.String(), "Allowed now: "+what.String())
		return false
	case errors.Is(err, context.Canceled):
		return false
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsResourceExpired(err), apierrors.IsGone(err):
		// Answers, of an API server that is well.
		c.clear(apiAway, "The API server answers again")
		return false
	case apierrors.IsNotFound(err) && !what.reads():
		c.clear(apiAway, "The API server answers again") // the object went
		return false
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err), apierrors.IsNotFound(err):
		c.clear(apiAway, "The API server answers again")
		return c.raise(what.String(), sureAfter, "The API server denies it; going on without", what.explain(err))
	}
	c.raise(apiAway, 0, "The API server cannot be asked; going on with what is known", what.explain(err))
	return false
}

// about is hear for what is no call: err or, if nil, that all is well.
func (c *complaints) about(key, message string, err error) {
	if err == nil {
		c.clear(key, "No longer: "+message)
		return
	}
	c.raise(key, 0, message, err)
}

// raise says whether it was heard for long enough.
func (c *complaints) raise(key string, enough time.Duration, message string, err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	it, now := c.of[key], time.Now()
	if it == nil {
		it = &complaint{}
		c.of[key] = it
	}
	if it.since.IsZero() {
		it.since = now
	}
	sure := now.Sub(it.since) >= enough
	// One that comes and goes is said again when it has stayed until
	// repeatAfter.
	if sure && !it.said && (it.at.IsZero() || now.Sub(it.at) >= repeatAfter) {
		it.said, it.at = true, now
		c.log.Warn(message, "err", err)
	}
	return sure
}

func (c *complaints) clear(key, message string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	it := c.of[key]
	if it == nil {
		return
	}
	if it.said {
		c.log.Info(message)
	}
	it.since, it.said = time.Time{}, false
	if time.Since(it.at) >= repeatAfter {
		delete(c.of, key)
	}
}
