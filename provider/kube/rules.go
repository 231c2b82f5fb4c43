package kube

import rbacv1 "k8s.io/api/rbac/v1"

// FunctionRules are what weir's service account must be allowed to do in every
// namespace of functions, and no more.
func FunctionRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		// Which functions there are. Get: one of them again, when another
		// write came between.
		{APIGroups: []string{"apps"}, Resources: []string{"deployments", "statefulsets"}, Verbs: []string{"get", "list", "watch"}},
		// Replicas, and nothing else of them.
		{APIGroups: []string{"apps"}, Resources: []string{"deployments/scale", "statefulsets/scale"}, Verbs: []string{"update"}},
		// Where they are. Patch: the deletion cost of busy ones.
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list", "patch", "watch"}},
		// What another autoscaler moves.
		{APIGroups: []string{"autoscaling"}, Resources: []string{"horizontalpodautoscalers"}, Verbs: []string{"list", "watch"}},
		// What their owners are told.
		{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}},
	}
}

// OwnRules are what it must be allowed to do in its own namespace.
func OwnRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		// Which weir decides.
		{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"create", "get", "update"}},
		// The other weirs.
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list", "watch"}},
	}
}
