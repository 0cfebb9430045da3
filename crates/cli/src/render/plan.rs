//! The plan of a dry run, step by step.

use super::{Output, json};
use crate::failure::Outcome;
use wire::control::PlanFacts;

pub fn show(output: Output, plan: &PlanFacts) -> Outcome {
    if output.json {
        return json::document(plan);
    }
    let mut text = format!("{} {} would take {} steps:\n", plan.verb, plan.vm_name, plan.steps.len());
    for (index, step) in plan.steps.iter().enumerate() {
        text.push_str(&format!("{:>3}  {step}\n", index + 1));
    }
    super::data(&text)
}
